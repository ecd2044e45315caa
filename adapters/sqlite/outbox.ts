/** The outbox in SQLite. */
import type { DatabaseSync } from "node:sqlite";
import {
  type Durability,
  type OutboxEntry,
  type OutboxRow,
  type OutboxStore,
  StoreError,
} from "../../src/spi.ts";
import { isOutOfDate } from "./errors.ts";
import type { SqliteFile } from "./file.ts";
import { checkHandle } from "./handle.ts";
import { createLease } from "./lease.ts";
import { type MessageColumns, fromColumns, toColumns } from "./mapping.ts";
import { type Sql, sqlOn } from "./sql.ts";

const columns =
  "topic, partitions, keyed, group_name, dead, key, attributes, headers, body, durability, created_at";

interface Row extends MessageColumns {
  readonly seq: number;
  readonly topic: string;
  readonly partitions: number;
  readonly keyed: number;
  readonly group_name: string | null;
  readonly dead: number;
  readonly durability: string;
}

/** What the outbox needs of its store. */
export interface OutboxContext {
  readonly file: () => SqliteFile;
  readonly path: string;
}

export function createOutboxStore({ file, path }: OutboxContext): OutboxStore {
  const now = (): number => file().runtime.now();
  const holds = (sql: Sql, epoch: bigint): boolean =>
    sql.get("SELECT 1 FROM postrider_relay WHERE epoch = ?", epoch) !== undefined;

  return {
    async append(handle, entries) {
      checkHandle(handle, path);
      // Another connection may keep the lock while a deferred transaction makes its first write; then try again.
      await file().insist(() => {
        try {
          insertAll(handle, entries, now());
        } catch (error) {
          throw isOutOfDate(error) ? outOfDate(path, error) : error;
        }
      });
    },

    ...createLease(file),

    async fetch({ above, except = [], parkedTopics, limit }) {
      const rows = await file().read((sql) =>
        sql.all<Row>(
          `SELECT seq, ${columns} FROM postrider_outbox
           WHERE seq > ? AND topic NOT IN (SELECT value FROM json_each(?)) AND seq NOT IN (SELECT value FROM json_each(?))
           ORDER BY seq LIMIT ?`,
          above,
          JSON.stringify(parkedTopics),
          `[${except.join()}]`,
          limit,
        ),
      );
      // A writer draws its numbers while it is the only one, and commits before the next one draws: no row can still
      // appear below one that was seen. So every fetch proves all that any earlier remove has asked for.
      return { rows: rows.map(toOutboxRow), horizon: 1n };
    },

    async remove(seqs, epoch) {
      const fenced = await file().write((sql) => {
        if (!holds(sql, epoch)) return true;
        for (const seq of seqs) sql.run("DELETE FROM postrider_outbox WHERE seq = ?", seq);
        return false;
      });
      return { fenced, mark: 0n };
    },

    async park(row, epoch, error) {
      const fenced = await file().write((sql) => {
        if (!holds(sql, epoch)) return true;
        sql.run(
          `INSERT OR REPLACE INTO postrider_outbox_parked (seq, ${columns}, error, parked_at)
           SELECT seq, ${columns}, ?, ? FROM postrider_outbox WHERE seq = ?`,
          error,
          now(),
          row.seq,
        );
        sql.run("DELETE FROM postrider_outbox WHERE seq = ?", row.seq);
        return false;
      });
      return { fenced };
    },

    backlog: () => file().read((sql) => readBacklog(sql, now())),
  };
}

/** All or none of them, whatever becomes of the caller's transaction. */
function insertAll(db: DatabaseSync, entries: readonly OutboxEntry[], now: number): void {
  const sql = sqlOn(db);
  sql.run("SAVEPOINT postrider_append");
  try {
    for (const entry of entries) insert(sql, entry, now);
    sql.run("RELEASE postrider_append");
  } catch (error) {
    try {
      sql.run("ROLLBACK TO postrider_append");
      sql.run("RELEASE postrider_append");
    } catch {
      // The failure has rolled back the whole transaction; the caller gets its error.
    }
    throw error;
  }
}

function insert(sql: Sql, { destination, message, durability }: OutboxEntry, now: number): void {
  const { key, attributes, headers, body } = toColumns(message);
  sql.run(
    `INSERT INTO postrider_outbox (${columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    destination.topic.name,
    destination.topic.partitions,
    destination.topic.keyed ? 1 : 0,
    destination.group ?? null,
    destination.dead === true ? 1 : 0,
    key,
    attributes,
    headers,
    body,
    durability,
    now,
  );
}

function toOutboxRow(row: Row): OutboxRow {
  return {
    seq: BigInt(row.seq),
    destination: {
      topic: { name: row.topic, partitions: row.partitions, keyed: row.keyed === 1 },
      group: row.group_name ?? undefined,
      dead: row.dead === 1,
    },
    message: fromColumns(row),
    durability: row.durability as Durability,
  };
}

/** Counting stops where it would take long; beyond, the distance of first and last stands in. */
const countLimit = 10_000;

function readBacklog(
  sql: Sql,
  now: number,
): { depth: number; oldestMs: number; parked: number; relayed: boolean } {
  const row = sql.get<Record<"counted" | "span" | "oldest" | "parked" | "relayed", number | null>>(
    `SELECT (SELECT count(*) FROM (SELECT 1 FROM postrider_outbox LIMIT ?)) AS counted,
            (SELECT max(seq) FROM postrider_outbox) - (SELECT min(seq) FROM postrider_outbox) + 1 AS span,
            (SELECT created_at FROM postrider_outbox ORDER BY seq LIMIT 1) AS oldest,
            (SELECT count(*) FROM postrider_outbox_parked) AS parked,
            EXISTS (SELECT 1 FROM postrider_relay WHERE expires > ?) AS relayed`,
    countLimit,
    now,
  );
  const counted = row?.counted ?? 0;
  return {
    depth: counted < countLimit ? counted : (row?.span ?? counted),
    oldestMs: Math.max(0, now - (row?.oldest ?? now)),
    parked: row?.parked ?? 0,
    relayed: row?.relayed === 1,
  };
}

function outOfDate(path: string, cause: unknown): StoreError {
  return new StoreError(
    "ERR_STORE",
    `outbox failed on ${path}: this transaction has read what another connection has changed since, and can no longer write. Roll it back and try again; BEGIN IMMEDIATE avoids this`,
    { cause },
  );
}
