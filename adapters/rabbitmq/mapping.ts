/**
 * Messages on AMQP: CloudEvents in binary mode, by the names of its AMQP binding. Attributes are headers
 * `cloudEvents:<name>`, the content type is the property of that name; id and time are properties as well, for the server's
 * tools. Everything else in the headers is the sender's.
 */
import type { MessageProperties, Options } from "amqplib";
import { type WireMessage, headerMap } from "../../src/spi.ts";
import { delayHeaderPrefix } from "./delay.ts";

const prefix = "cloudEvents:";
/** Where a colon is not allowed in a name the binding has an underscore. */
const otherPrefix = "cloudEvents_";

/**
 * amqplib encodes a table of headers in 64 KiB, and versions before 2.3.1 break the frame when it is more. What is sent, and
 * what a stranger may have sent, is bounded so that a dead letter's own headers (at most 9 KiB) always fit beside it.
 */
export const headerLimits: { readonly publish: number; readonly read: number; readonly copy: number } = {
  publish: 44 * 1024,
  read: 54 * 1024,
  copy: 64 * 1024 - 512,
};
const valueLimit = 8 * 1024;
/** An AMQP short string. */
const shortLimit = 255;

/** RabbitMQ sends a copy to each queue named in these. */
const routingHeaders: ReadonlySet<string> = new Set(["CC", "BCC"]);
/** What the server writes about its own doings; carried on, it would take a copy for one that goes in circles and drop it. */
const serverHeader = /^x-(?:death$|first-death-|last-death-|delivery-count$|acquired-count$)/u;

const headerNames = remember((attribute) => prefix + attribute);
const attributeNames = remember((header) => header.slice(prefix.length));

/** Bytes as amqplib takes them. Shares memory. */
export function toBuffer(body: Uint8Array | null): Buffer {
  if (body === null) return Buffer.alloc(0);
  return Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength);
}

/** Properties and headers of a message; or why it cannot be written. `limit` is in bytes. */
export function toProperties(
  message: WireMessage,
  limit: number,
): Options.Publish | { readonly unwritable: string } {
  const { attributes } = message;
  // With a prototype, which V8 reads faster: all values are text, and text assigned to `__proto__` is ignored.
  const headers: Record<string, unknown> = {};
  let size = 0;
  for (const name in attributes) {
    if (name === "datacontenttype" && isShort(attributes[name])) continue;
    const value = attributes[name] as string;
    headers[headerNames.of(name)] = value;
    size += prefix.length + name.length + value.length + 8;
  }
  if (message.key !== undefined && attributes["partitionkey"] === undefined)
    headers[`${prefix}partitionkey`] = message.key;
  for (const name in message.headers) {
    if (routingHeaders.has(name))
      return { unwritable: `header "${name}" would make RabbitMQ send copies elsewhere; rename it` };
    const value = message.headers[name] as string;
    headers[name] = value;
    size += name.length + value.length + 8;
  }
  // A character is at most three bytes; only what might be too much is counted exactly.
  if (size * 3 > limit && byteSize(headers) > limit)
    return {
      unwritable: `headers take more than ${Math.floor(limit / 1024)} KiB; put data into the payload`,
    };
  const properties: Record<string, unknown> = { headers };
  if (isShort(attributes["datacontenttype"])) properties["contentType"] = attributes["datacontenttype"];
  if (isShort(attributes["id"])) properties["messageId"] = attributes["id"];
  properties["timestamp"] = secondsOf(attributes["time"]);
  return properties;
}

/** A message as it was read. Whatever a foreign sender wrote becomes text, within bounds. */
export function toWireMessage(
  properties: MessageProperties,
  content: Buffer,
  limit: number = headerLimits.read,
): WireMessage {
  const attributes = headerMap();
  const headers = headerMap();
  const table = (properties.headers ?? {}) as Readonly<Record<string, unknown>>;
  let size = 0;
  for (const name of Object.keys(table)) {
    if (isOurs(name)) continue;
    const value = textOf(table[name]);
    size += sizeOf(name, value);
    if (size > limit) break;
    if (name.startsWith(prefix) || name.startsWith(otherPrefix)) attributes[attributeNames.of(name)] = value;
    else headers[name] = value;
  }
  fromProperties(attributes, properties);
  return {
    attributes,
    headers,
    key: attributes["partitionkey"],
    body: new Uint8Array(content.buffer, content.byteOffset, content.byteLength),
  };
}

/** Earlier hand-overs that ended without a word from the consumer, by the server's count. */
export function redeliveriesOf(properties: MessageProperties, redelivered: boolean): number {
  const count: unknown = properties.headers?.["x-delivery-count"];
  if (typeof count === "number" && count >= 0) return count;
  // Since 4.3 what was given back is counted apart, in `x-acquired-count`, and not as a failed hand-over.
  return redelivered && properties.headers?.["x-acquired-count"] === undefined ? 1 : 0;
}

function isOurs(name: string): boolean {
  return name.startsWith(delayHeaderPrefix) || serverHeader.test(name) || routingHeaders.has(name);
}

/** Names made of other names, made once: there are few, and a new one each time costs more than all the rest of a header. */
function remember(make: (name: string) => string): { of(name: string): string } {
  const known = new Map<string, string>();
  return {
    of(name) {
      let made = known.get(name);
      if (made !== undefined) return made;
      made = make(name);
      // A stranger may send any name.
      if (known.size < 1_000) known.set(name, made);
      return made;
    },
  };
}

/** What a sender that knows nothing of CloudEvents says with the properties of AMQP. */
function fromProperties(attributes: Record<string, string>, properties: MessageProperties): void {
  const { contentType, messageId, timestamp } = properties as {
    readonly [name in keyof MessageProperties]: unknown;
  };
  if (typeof contentType === "string") attributes["datacontenttype"] = contentType;
  if (typeof messageId === "string" && messageId !== "") attributes["id"] ??= messageId;
  if (attributes["time"] === undefined && typeof timestamp === "number") {
    const time = timeOf(timestamp);
    if (time !== undefined) attributes["time"] = time;
  }
}

/** The text of any value a header can have. */
function textOf(value: unknown): string {
  if (typeof value === "string") return value.length > valueLimit ? cut(value) : value;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  if (value === null || value === undefined) return "";
  if (Buffer.isBuffer(value)) return cut(value.subarray(0, valueLimit).toString("utf8"));
  const { "!": type, value: inner } = value as { readonly "!"?: unknown; readonly value?: unknown };
  if (type === "timestamp" && typeof inner === "number") return timeOf(inner) ?? String(inner);
  try {
    return cut(JSON.stringify(value));
  } catch {
    // Nested too deep to be written; nobody who sends such a thing means it to be read.
    return "";
  }
}

function cut(text: string): string {
  return text.slice(0, valueLimit).toWellFormed();
}

function timeOf(seconds: number): string | undefined {
  // The range of Date; the wire has 64 bits.
  return seconds >= 0 && seconds < 8.64e12 ? new Date(seconds * 1_000).toISOString() : undefined;
}

function secondsOf(time: string | undefined): number | undefined {
  const ms = time === undefined ? NaN : Date.parse(time);
  return ms >= 0 ? Math.floor(ms / 1_000) : undefined;
}

function isShort(value: string | undefined): boolean {
  return (
    value !== undefined && (value.length * 3 <= shortLimit || Buffer.byteLength(value, "utf8") <= shortLimit)
  );
}

function sizeOf(name: string, value: string): number {
  return Buffer.byteLength(name) + Buffer.byteLength(value) + 8;
}

function byteSize(headers: Readonly<Record<string, unknown>>): number {
  let size = 0;
  for (const name in headers) size += sizeOf(name, String(headers[name]));
  return size;
}
