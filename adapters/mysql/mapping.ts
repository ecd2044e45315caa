/** Outbox entries to columns and back. */
import { type Durability, type OutboxEntry, type OutboxRow, StoreError, headerMap } from "../../src/spi.ts";
import type { Cell, Row } from "./query.ts";
import { type Sql, sql } from "./sql.ts";

/** The columns of an entry, in the order in which `cellsOf` gives and `rowOf` takes them. */
export const entryColumns: Sql = sql`topic, \`key\`, body, attributes, headers, partitions, keyed, group_name, dead,
  durability`;

/** The id and the columns of an entry, as `rowOf` takes them: bytes where the session could change the character set. */
export const readColumns: Sql = sql`CAST(id AS CHAR), topic, CAST(\`key\` AS BINARY), body, CAST(attributes AS BINARY),
  CAST(headers AS BINARY), partitions, keyed, group_name, dead, durability`;

/** The key is JSON, because what other systems call a key may hold half a surrogate pair. */
export function cellsOf({ destination, message, durability }: OutboxEntry): Sql {
  const { topic, group = null, dead = false } = destination;
  const { key, body, attributes, headers } = message;
  const texts = [JSON.stringify(attributes), JSON.stringify(headers)];
  return sql`${[
    topic.name,
    key === undefined ? null : JSON.stringify(key),
    body,
    ...texts,
    topic.partitions,
    topic.keyed,
    group,
    dead,
    durability,
  ]}`;
}

/** Throws `StoreError` on a row that we have not written. */
export function rowOf(cells: Row): OutboxRow {
  const [id, topic, key, body, attributes, headers, partitions, keyed, group, dead, durability] = cells;
  try {
    return {
      seq: BigInt(String(id)),
      destination: {
        topic: { name: String(topic), partitions: Number(partitions), keyed: Number(keyed) === 1 },
        ...(group === null ? {} : { group: String(group) }),
        ...(Number(dead) === 1 ? { dead: true } : {}),
      },
      message: {
        attributes: headerMap(parse(attributes) as Record<string, string>),
        headers: headerMap(parse(headers) as Record<string, string>),
        key: key === null ? undefined : (parse(key) as string),
        body: body as Uint8Array | null,
      },
      durability: String(durability) as Durability,
    };
  } catch (cause) {
    throw new StoreError(
      "ERR_STORE",
      `outbox row ${String(id)} cannot be read: ${String(cause)}. Correct it, or move it to outbox_parked`,
      { cause, retryable: false },
    );
  }
}

function parse(cell: Cell | undefined): unknown {
  return JSON.parse(String(cell));
}
