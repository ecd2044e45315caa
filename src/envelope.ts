/** Message to wire form and back: the only place that knows attribute names, header names and codec together. */
import type { Runtime } from "./clock.ts";
import { json } from "./codec.ts";
import { CodecError } from "./errors.ts";
import { type Headers, checkHeaders, header, headerCount, headerMap, traceHeaders } from "./headers.ts";
import { idLimit, isIdText, toUsableId } from "./ids.ts";
import { show, textOf } from "./inspect.ts";
import type { Message, WireMessage } from "./message.ts";
import { validate } from "./schema.ts";
import type { Topic } from "./topic.ts";

/** What a sender may say about one message. */
export interface EnvelopeOptions {
  readonly id?: string | undefined;
  readonly key?: string | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly idempotencyKey?: string | undefined;
  readonly correlationId?: string | undefined;
  readonly causationId?: string | undefined;
}

/** What the envelope takes from its bus. */
export interface EnvelopeContext {
  readonly runtime: Runtime;
  /** CloudEvents source. */
  readonly source: string;
  /** Largest body in bytes. */
  readonly maxBytes: number;
}

const keyLimit = 512;

/**
 * The wire form of one payload. Everything is copied before this returns, also when the schema validates
 * asynchronously: what the caller changes afterwards changes nothing. Throws `CodecError`.
 */
export function encode(
  topic: Topic,
  payload: unknown,
  options: EnvelopeOptions,
  context: EnvelopeContext,
): WireMessage | Promise<WireMessage> {
  const headers = checkHeaders(options.headers);
  const body = encodeBody(topic, payload, context.maxBytes);
  const finish = (valid: unknown): WireMessage => {
    const key = checkKey(options.key ?? keyOf(topic, valid));
    return {
      attributes: attributesOf(topic, key, headers, options, context),
      headers: ownHeaders(headers),
      key,
      body,
    };
  };
  const result = validate(topic.name, topic.schema, payload);
  if (!(result instanceof Promise)) return finish(result);
  // An asynchronous validator would read what the caller changes meanwhile: it runs again, on a copy made now.
  result.catch(() => undefined);
  return Promise.resolve(validate(topic.name, topic.schema, copyOf(topic, payload))).then(finish);
}

function keyOf(topic: Topic, payload: unknown): string | undefined {
  try {
    return topic.key?.(payload as never);
  } catch (cause) {
    throw new CodecError("ERR_ID", `key function of topic "${topic.name}" failed: ${textOf(cause)}`, {
      cause,
    });
  }
}

function copyOf(topic: Topic, payload: unknown): unknown {
  try {
    return structuredClone(payload);
  } catch (cause) {
    const text = `payload for topic "${topic.name}" cannot be copied, which its asynchronous schema needs: ${textOf(cause)}`;
    throw new CodecError("ERR_ENCODE", text, { cause });
  }
}

function encodeBody(topic: Topic, payload: unknown, maxBytes: number): Uint8Array {
  const body = callEncode(topic, payload);
  checkSize(topic.name, body, maxBytes);
  return body;
}

/** Throws `ERR_TOO_LARGE`. */
export function checkSize(topic: string, body: Uint8Array, maxBytes: number): void {
  if (body.byteLength <= maxBytes) return;
  const [size, limit] = [body.byteLength, maxBytes].map((n) => n.toLocaleString("en-US"));
  throw new CodecError(
    "ERR_TOO_LARGE",
    `payload for topic "${topic}" is ${size} > ${limit} bytes; store it elsewhere and send a reference (claim check)`,
  );
}

function callEncode(topic: Topic, payload: unknown): Uint8Array {
  let body: unknown;
  try {
    body = topic.codec.encode(payload);
  } catch (cause) {
    if (cause instanceof CodecError) throw cause;
    const text = `payload for topic "${topic.name}" cannot be encoded: ${textOf(cause)}`;
    throw new CodecError("ERR_ENCODE", text, { cause });
  }
  if (body instanceof Uint8Array) return body;
  throw new CodecError(
    "ERR_ENCODE",
    `codec of topic "${topic.name}" must give a Uint8Array, gave ${show(body)}`,
  );
}

function attributesOf(
  topic: Topic,
  key: string | undefined,
  headers: Headers,
  options: EnvelopeOptions,
  { runtime, source }: EnvelopeContext,
): Headers {
  const attributes = headerMap();
  attributes["specversion"] = "1.0";
  attributes["id"] = options.id === undefined ? runtime.newId() : checkId("id", options.id);
  attributes["source"] = source;
  attributes["type"] = topic.name;
  attributes["time"] = timeText(runtime.now());
  attributes["datacontenttype"] = topic.codec.contentType;
  if (key !== undefined) attributes["partitionkey"] = key;
  for (const [attribute, option] of idAttributes) {
    const value = options[option];
    if (value !== undefined) attributes[attribute] = checkId(option, value);
  }
  for (const name of traceHeaders) {
    const value = headers[name];
    if (value !== undefined) attributes[name] = value;
  }
  return attributes;
}

const idAttributes = [
  ["idempotencykey", "idempotencyKey"],
  ["correlationid", "correlationId"],
  ["causationid", "causationId"],
] as const;

/** `headers` without those that are attributes. */
function ownHeaders(headers: Headers): Headers {
  if (!traceHeaders.some((name) => name in headers)) return headers;
  return headerMap(Object.entries(headers).filter(([name]) => !traceHeaders.includes(name)));
}

let lastTime = { ms: Number.NaN, text: "" };

/** Many messages have the same time, and writing it takes longer than all other attributes. */
function timeText(ms: number): string {
  if (ms !== lastTime.ms) lastTime = { ms, text: new Date(ms).toISOString() };
  return lastTime.text;
}

/** Text that may be an id or a key. Throws `ERR_ID`. */
export function checkId(what: string, value: unknown): string {
  if (typeof value !== "string" || value.length === 0 || value.length > idLimit || !isIdText(value)) {
    throw new CodecError(
      "ERR_ID",
      `${what} must be well-formed text of 1..${idLimit} characters, got ${show(value)}`,
    );
  }
  return value;
}

function checkKey(value: unknown): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== "string" || value.length === 0 || value.length > keyLimit || !isIdText(value)) {
    throw new CodecError(
      "ERR_ID",
      `key must be well-formed text of 1..${keyLimit} characters, got ${show(value)}`,
    );
  }
  return value;
}

/** Attributes shown as fields of `Message`; the others are in `message.attributes`. */
const shownAttributes = new Set([
  "specversion",
  "id",
  "source",
  "type",
  "time",
  "datacontenttype",
  "partitionkey",
  ...idAttributes.map(([attribute]) => attribute),
  ...traceHeaders,
]);

/** A message without its payload: everything that can be said of it before it is decoded. */
export function describe(
  topic: string,
  position: string,
  wire: WireMessage,
  now: number,
): Omit<Message, "payload"> {
  const { attributes } = wire;
  const sent = Date.parse(attributes["time"] ?? "");
  return {
    id: idOf(topic, position, wire),
    topic,
    key: attributes["partitionkey"] ?? wire.key,
    headers: shownHeaders(wire),
    source: attributes["source"] ?? "",
    time: new Date(Number.isNaN(sent) ? now : sent),
    contentType: attributes["datacontenttype"],
    idempotencyKey: givenId(attributes["idempotencykey"]),
    correlationId: givenId(attributes["correlationid"]),
    causationId: givenId(attributes["causationid"]),
    redrives: headerCount(wire.headers, header.redrives),
    attributes: Object.freeze(
      headerMap(Object.entries(attributes).filter(([name]) => !shownAttributes.has(name))),
    ),
  };
}

/** The message's own id, or for a foreign message one derived from where it was first read, so that it stays the same. */
export function idOf(topic: string, position: string, wire: WireMessage): string {
  return ownIdOf(wire) ?? toUsableId(`${topic}:${wire.headers[header.position] ?? position}`);
}

/** The id its sender gave it, if any. */
export function ownIdOf(wire: WireMessage): string | undefined {
  return givenId(wire.attributes["id"]);
}

/** An empty id is none: taken for one, it would make all messages that have it duplicates of each other. */
function givenId(value: string | undefined): string | undefined {
  return value === undefined || value === "" ? undefined : toUsableId(value);
}

function shownHeaders(wire: WireMessage): Headers {
  const map = headerMap();
  for (const [name, value] of Object.entries(wire.headers)) if (!name.startsWith("pr-")) map[name] = value;
  for (const name of traceHeaders) {
    const value = wire.attributes[name];
    if (value !== undefined) map[name] = value;
  }
  return Object.freeze(map);
}

/** The payload a handler sees: decoded, then validated. Throws `CodecError`. */
export async function decodePayload(topic: Topic, wire: WireMessage): Promise<unknown> {
  return validate(topic.name, topic.schema, wire.body === null ? null : decodeBody(topic, wire.body));
}

function decodeBody(topic: Topic, body: Uint8Array): unknown {
  try {
    // A retry or a dead letter sends these bytes on, whatever the handler does to a payload that shares them. JSON does not.
    return topic.codec.decode(topic.codec === json ? body : new Uint8Array(body));
  } catch (cause) {
    if (cause instanceof CodecError) throw cause;
    const text = `body of topic "${topic.name}" cannot be decoded: ${textOf(cause)}`;
    throw new CodecError("ERR_DECODE", text, { cause });
  }
}
