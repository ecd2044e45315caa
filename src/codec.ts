/**
 * Payload to bytes and back. JSON is strict both ways: what JSON would silently change (NaN to null, a Map to {})
 * is refused on the way out, what could harm (`__proto__`, endless depth) on the way in.
 */
import secureJson from "secure-json-parse";
import { CodecError } from "./errors.ts";
import { isPlainObject, textOf } from "./inspect.ts";

/** Turns payloads into bytes and back. Chosen by configuration, never by a header alone. */
export interface Codec {
  /** The CloudEvents `datacontenttype` of what it writes. */
  readonly contentType: string;
  /** Bytes that no longer share memory with the payload. Throws `CodecError` `ERR_ENCODE`. */
  encode(payload: unknown): Uint8Array;
  /**
   * Gets bytes of its own: what it returns may share them. Throws on bytes it cannot read; the message is then dead-lettered
   * with reason `invalid`.
   */
  decode(body: Uint8Array): unknown;
}

const maxDepth = 64;
const maxKeys = 10_000;
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The default codec. */
export const json: Codec = {
  contentType: "application/json",
  encode(payload) {
    if (payload === undefined) {
      throw new CodecError("ERR_ENCODE", "body is undefined; send null for an empty body");
    }
    try {
      checkJson(payload, "$", 1);
      return Buffer.from(JSON.stringify(payload));
    } catch (cause) {
      if (cause instanceof CodecError) throw cause;
      throw new CodecError("ERR_ENCODE", `payload cannot be written as JSON: ${textOf(cause)}`, { cause });
    }
  },
  decode(body) {
    const text = decodeText(body);
    let value: unknown;
    try {
      value = parseJson(text);
    } catch (cause) {
      // Without the cause: V8 repeats the body in its message, and this error is logged and stored.
      throw new CodecError("ERR_DECODE", `body is not acceptable JSON: ${syntaxErrorOf(textOf(cause))}`);
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
    return new Uint8Array(payload);
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

/** What the parser said, without what it quoted. */
function syntaxErrorOf(message: string): string {
  if (/byte order mark|forbidden prototype/u.test(message)) return message;
  const position = /at position (\d+)/u.exec(message)?.[1];
  if (position !== undefined) return `syntax error at character ${position}`;
  return message.includes("end of JSON") ? "it ends too early" : "unexpected token";
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
  if (ArrayBuffer.isView(value)) refuse(path, `is a ${classOf(value)}; use codec "bytes" or a string`);
  if (hasToJson(value)) return checkJson(callToJson(value, path), path, depth + 1);
  if (!isPlainObject(value)) {
    refuse(path, `is an instance of ${classOf(value)}, which JSON would empty; send a plain object`);
  }
  const keys = Object.keys(value);
  if (keys.length > maxKeys) refuse(path, `has more than ${maxKeys} keys`);
  for (const key of keys) {
    const item = read(value, key, path);
    checkKey(key, item, path);
    if (item !== undefined) checkJson(item, `${path}.${key}`, depth + 1);
  }
}

/** What `decode` refuses must not be sent. */
function checkKey(key: string, item: unknown, path: string): void {
  if (!key.isWellFormed()) refuse(path, `has a key ${JSON.stringify(key)} that is not well-formed UTF-16`);
  const pollutes =
    key === "__proto__" ||
    (key === "constructor" && typeof item === "object" && item !== null && Object.hasOwn(item, "prototype"));
  if (pollutes) refuse(path, `has a key "${key}" that receivers refuse, because it can change prototypes`);
}

function classOf(value: object): string {
  const name: unknown = (value.constructor as { readonly name?: unknown } | undefined)?.name;
  return typeof name === "string" && name !== "" ? name : "an unnamed class";
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
