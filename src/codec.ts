/**
 * Payload to bytes and back. JSON is strict both ways: what JSON would silently change (NaN to null, a Map to {})
 * is refused on the way out, what could harm (`__proto__`, endless depth) on the way in.
 */
import secureJson from "secure-json-parse";
import { CodecError } from "./errors.ts";

/** Turns payloads into bytes and back. Chosen by configuration, never by a header alone. */
export interface Codec {
  /** The CloudEvents `datacontenttype` of what it writes. */
  readonly contentType: string;
  /** Bytes that no longer share memory with the payload. Throws `CodecError` `ERR_ENCODE`. */
  encode(payload: unknown): Uint8Array;
  /** Throws on bytes it cannot read; the message is then dead-lettered with reason `invalid`. */
  decode(body: Uint8Array): unknown;
}

const maxDepth = 64;
const maxKeys = 10_000;
const utf8 = new TextEncoder();
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The default codec. */
export const json: Codec = {
  contentType: "application/json",
  encode(payload) {
    if (payload === undefined) {
      throw new CodecError("ERR_ENCODE", "body is undefined; send null for an empty body");
    }
    checkJson(payload, "$", 1);
    try {
      return utf8.encode(JSON.stringify(payload));
    } catch (cause) {
      throw new CodecError("ERR_ENCODE", `payload cannot be written as JSON: ${String(cause)}`, { cause });
    }
  },
  decode(body) {
    const text = decodeText(body);
    let value: unknown;
    try {
      value = parseJson(text);
    } catch (cause) {
      throw new CodecError("ERR_DECODE", `body is not acceptable JSON: ${(cause as Error).message}`, {
        cause,
      });
    }
    checkShape(value, 1);
    return value;
  },
};

/** Bytes as they are: the payload is a `Uint8Array`. */
export const bytes: Codec = {
  contentType: "application/octet-stream",
  encode(payload) {
    if (!(payload instanceof Uint8Array)) {
      throw new CodecError("ERR_ENCODE", `codec "bytes" takes a Uint8Array, got ${typeof payload}`);
    }
    return Uint8Array.from(payload);
  },
  decode: (body) => body,
};

function decodeText(body: Uint8Array): string {
  try {
    return strictUtf8.decode(body);
  } catch (cause) {
    throw new CodecError("ERR_DECODE", "body is not valid UTF-8", { cause });
  }
}

/** `__proto__` and `constructor.prototype` keys are refused: they become prototypes when an object is merged or cloned. */
function parseJson(text: string): unknown {
  if (text.startsWith("\ufeff")) throw new SyntaxError("unexpected byte order mark at byte 0");
  return secureJson.parse(text, { protoAction: "error", constructorAction: "error" });
}

/** Depth and width of what was received: a parsed value too deep to be written again would fail far from here. */
function checkShape(value: unknown, depth: number): void {
  if (typeof value !== "object" || value === null) return;
  if (depth > maxDepth) throw new CodecError("ERR_DECODE", `body is nested deeper than ${maxDepth} levels`);
  const items = Array.isArray(value) ? value : Object.values(value);
  if (!Array.isArray(value) && items.length > maxKeys) {
    throw new CodecError("ERR_DECODE", `body has an object of more than ${maxKeys} keys`);
  }
  for (const item of items) checkShape(item, depth + 1);
}

function checkJson(value: unknown, path: string, depth: number): void {
  switch (typeof value) {
    case "string":
      if (!value.isWellFormed()) refuse(path, "is not well-formed UTF-16 (a lone surrogate)");
      return;
    case "number":
      if (!Number.isFinite(value)) refuse(path, `is ${value}, which JSON cannot carry`);
      return;
    case "boolean":
      return;
    case "object":
      if (value !== null) checkObject(value, path, depth);
      return;
    case "undefined":
      return refuse(path, "is undefined, which JSON cannot carry");
    default:
      refuse(path, `is a ${typeof value}, which JSON cannot carry`);
  }
}

function checkObject(value: object, path: string, depth: number): void {
  if (depth > maxDepth) refuse(path, `is nested deeper than ${maxDepth} levels, or refers to itself`);
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) checkJson(value[i], `${path}[${i}]`, depth + 1);
    return;
  }
  if (ArrayBuffer.isView(value))
    refuse(path, `is a ${value.constructor.name}; use codec "bytes" or a string`);
  if (hasToJson(value)) return checkJson(callToJson(value, path), path, depth + 1);
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== null && prototype !== Object.prototype && Object.getPrototypeOf(prototype) !== null) {
    refuse(path, `is an instance of ${value.constructor.name}, which JSON would empty; send a plain object`);
  }
  const keys = Object.keys(value);
  if (keys.length > maxKeys) refuse(path, `has more than ${maxKeys} keys`);
  for (const key of keys) {
    const item = read(value, key, path);
    if (item !== undefined) checkJson(item, `${path}.${key}`, depth + 1);
  }
}

function read(value: object, key: string, path: string): unknown {
  try {
    return (value as Record<string, unknown>)[key];
  } catch (cause) {
    throw new CodecError("ERR_ENCODE", `reading ${path}.${key} of the payload threw`, { cause });
  }
}

function hasToJson(value: object): value is { toJSON(): unknown } {
  return "toJSON" in value && typeof value.toJSON === "function";
}

function callToJson(value: { toJSON(): unknown }, path: string): unknown {
  if (value instanceof Date && Number.isNaN(value.getTime())) refuse(path, "is an invalid Date");
  try {
    return value.toJSON();
  } catch (cause) {
    throw new CodecError("ERR_ENCODE", `toJSON of ${path} threw`, { cause });
  }
}

function refuse(path: string, why: string): never {
  throw new CodecError("ERR_ENCODE", `payload at ${path} ${why}`);
}
