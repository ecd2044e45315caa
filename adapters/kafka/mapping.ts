/**
 * Messages as Kafka records and back: CloudEvents in binary mode by its Kafka binding (`ce_<attribute>`, `content-type`),
 * the value is the body, the record's key the ordering key. Records of foreign producers are read as they are.
 */
import type { IHeaders, KafkaMessage, Message } from "kafkajs";
import { type HeaderPatch, type WireMessage, headerMap } from "../../src/spi.ts";

/** Headers of this adapter's own: never part of a message, never shown. */
export const privateHeader = {
  /** Epoch milliseconds before which a record of a retry topic is not handed over. */
  due: "pr-kafka-due",
  /** Key of the record that became this dead letter. */
  key: "pr-kafka-key",
  /** The body was null; a dead letter with a null value would be a tombstone. */
  nullBody: "pr-kafka-null",
} as const;

const privateNames: ReadonlySet<string> = new Set(Object.values(privateHeader));
const attributePrefix = "ce_";
const contentType = "content-type";

/** A record, before it is known where it goes. */
export interface RecordParts {
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers: IHeaders;
}

/** The record of a message. */
export function toRecord({ attributes, headers, key, body }: WireMessage): RecordParts {
  const map: IHeaders = headerMap(headers);
  for (const [name, value] of Object.entries(attributes)) {
    map[name === "datacontenttype" ? contentType : attributePrefix + name] = value;
  }
  return {
    key: key === undefined ? null : Buffer.from(key),
    value: body === null ? null : bufferOf(body),
    headers: map,
  };
}

/** The client refuses a plain `Uint8Array`, as a broken record of all things. */
function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The message of a record, whoever wrote it. */
export function fromRecord(record: KafkaMessage): WireMessage {
  const attributes = headerMap();
  const headers = headerMap();
  for (const [name, values] of headersOf(record)) {
    // Of a repeated header the last one counts, as with other Kafka clients.
    const value = textOf(values.at(-1) as Buffer);
    if (privateNames.has(name)) continue;
    if (name.startsWith(attributePrefix)) attributes[name.slice(attributePrefix.length)] = value;
    else if (name === contentType) attributes["datacontenttype"] = value;
    else headers[name] = value;
  }
  return {
    attributes,
    headers,
    key: record.key === null ? undefined : textOf(record.key),
    body: record.value,
  };
}

/** The record of a message that is moved: everything as it was read, to the byte, but for the patched headers. */
export function copyRecord(record: KafkaMessage, patch: HeaderPatch): RecordParts {
  const headers: IHeaders = headerMap();
  for (const [name, values] of headersOf(record)) if (!privateNames.has(name)) headers[name] = values;
  for (const [name, value] of Object.entries(patch)) {
    if (value === undefined) delete headers[name];
    else headers[name] = value;
  }
  return { key: record.key, value: record.value, headers };
}

/** A dead letter: keyed by `id`, so that compaction keeps one per message. Its own key and a null body are put by. */
export function asDeadLetter(record: RecordParts, id: string): RecordParts {
  const headers: IHeaders = { ...record.headers };
  if (record.key !== null) headers[privateHeader.key] = record.key;
  if (record.value === null) headers[privateHeader.nullBody] = "1";
  return { key: Buffer.from(id), value: record.value ?? Buffer.alloc(0), headers };
}

/** The message of a dead letter. */
export function fromDeadLetter(record: KafkaMessage): WireMessage {
  const message = fromRecord(record);
  const key = lastHeader(record, privateHeader.key);
  const nullBody = lastHeader(record, privateHeader.nullBody) !== undefined;
  return {
    ...message,
    key: key === undefined ? undefined : textOf(key),
    body: nullBody ? null : message.body,
  };
}

/** A header of the adapter's own. */
export function privateValue(record: KafkaMessage, name: string): string | undefined {
  return lastHeader(record, name)?.toString();
}

/** About what a record takes in a batch, in bytes. */
export function sizeOf(record: Pick<Message, "key" | "value" | "headers">): number {
  let size = 24 + lengthOf(record.key) + lengthOf(record.value);
  for (const [name, value] of Object.entries(record.headers ?? {})) {
    for (const one of Array.isArray(value) ? value : [value]) size += 4 + name.length * 3 + lengthOf(one);
  }
  return size;
}

function lengthOf(value: string | Buffer | null | undefined): number {
  if (value === null || value === undefined) return 0;
  return typeof value === "string" ? Buffer.byteLength(value) : value.length;
}

function lastHeader(record: KafkaMessage, name: string): Buffer | undefined {
  return buffersOf(record.headers?.[name]).at(-1);
}

/** Headers with their values in order; one without a value has an empty one. */
function* headersOf(record: KafkaMessage): Generator<[string, Buffer[]]> {
  for (const [name, value] of Object.entries(record.headers ?? {})) {
    const values = buffersOf(value);
    yield [name, values.length === 0 ? [Buffer.alloc(0)] : values];
  }
}

/**
 * The client collects headers in an object that has a prototype: of one named `constructor` it says that it is repeated, with
 * a function for its first value. And a header without a value is null, against the client's own types.
 */
function buffersOf(value: unknown): Buffer[] {
  return (Array.isArray(value) ? value : [value]).flatMap((one) => {
    if (Buffer.isBuffer(one)) return [one];
    return typeof one === "string" ? [Buffer.from(one)] : [];
  });
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Text where it is text; other bytes as base64, so that different ones stay different. */
function textOf(bytes: Buffer): string {
  try {
    return utf8.decode(bytes);
  } catch {
    return bytes.toString("base64");
  }
}
