/** Outbox entries to columns and back. */
import { isUtf8 } from "node:buffer";
import {
  type Durability,
  type OutboxEntry,
  type OutboxRow,
  StoreError,
  headerMap,
  restored,
  storable,
} from "../../src/spi.ts";
import type { Row } from "./connection.ts";

/** The columns of an entry, in the order in which `cellsOf` gives and `rowOf` takes them. */
export const entryColumns: readonly string[] = [
  "topic",
  "key",
  "body",
  "encoding",
  "attributes",
  "headers",
  "partitions",
  "keyed",
  "group_name",
  "dead",
  "durability",
];

export const entryTypes: readonly string[] = [
  "text",
  "text",
  "text",
  "text",
  "text",
  "text",
  "int",
  "boolean",
  "text",
  "boolean",
  "text",
];

export type EntryCells = readonly (string | number | boolean | null)[];

export function cellsOf({ destination, message, durability }: OutboxEntry): EntryCells {
  const { topic, group = null, dead = false } = destination;
  const [body, encoding] = encodeBody(message.body);
  return [
    topic.name,
    message.key === undefined ? null : storable(message.key),
    body,
    encoding,
    JSON.stringify(message.attributes),
    JSON.stringify(message.headers),
    topic.partitions,
    topic.keyed,
    group,
    dead,
    durability,
  ];
}

/** `id`, then the cells of the entry. Throws `StoreError` on a row that we have not written. */
export function rowOf(cells: Row): OutboxRow {
  const [id, topic, key, body, encoding, attributes, headers, partitions, keyed, group, dead, durability] =
    cells;
  try {
    return {
      seq: BigInt(id ?? ""),
      destination: {
        topic: { name: topic ?? "", partitions: Number(partitions), keyed: keyed === "true" },
        ...(group === null ? {} : { group }),
        ...(dead === "true" ? { dead: true } : {}),
      },
      message: {
        attributes: headerMap(JSON.parse(attributes ?? "") as Record<string, string>),
        headers: headerMap(JSON.parse(headers ?? "") as Record<string, string>),
        key: key === null || key === undefined ? undefined : restored(key),
        body: decodeBody(body ?? null, encoding ?? ""),
      },
      durability: durability as Durability,
    };
  } catch (cause) {
    throw new StoreError(
      "ERR_STORE",
      `outbox row ${id} cannot be read: ${String(cause)}. Correct it, or move it to outbox_parked`,
      { cause, retryable: false },
    );
  }
}

/**
 * Text where it is text, so that a person can read it in the table; the driver handles it faster than `bytea`, too.
 * PostgreSQL has no NUL in text.
 */
function encodeBody(body: Uint8Array | null): readonly [string | null, "utf8" | "base64"] {
  if (body === null) return [null, "utf8"];
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  return isUtf8(bytes) && !bytes.includes(0)
    ? [bytes.toString("utf8"), "utf8"]
    : [bytes.toString("base64"), "base64"];
}

function decodeBody(body: string | null, encoding: string): Uint8Array | null {
  if (body === null) return null;
  if (encoding !== "utf8" && encoding !== "base64") throw new TypeError(`unknown encoding "${encoding}"`);
  return Buffer.from(body, encoding);
}
