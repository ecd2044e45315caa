/**
 * Adding to the outbox, in the caller's transaction: first the locks, then the rows, which draw their `seq`.
 *
 * The lock on its ordering key makes the order of a key's rows the order of their commits: two transactions that send for
 * one key take turns. It is one of a fixed number of rows, because a row that is there can be locked without locking what
 * is between rows, at every isolation level. The lock on a gate is for the relay's low-water mark; see `gates.ts`.
 *
 * The locks also tell whether there is a transaction: outside of one they are gone at once, and nothing was written.
 */
import { createHash } from "node:crypto";
import {
  type AppendQueue,
  type OutboxEntry,
  StoreError,
  createAppendQueue,
  orderKey,
} from "../../src/spi.ts";
import type { Meet } from "./acquaintance.ts";
import type { MysqlDatabase } from "./connection.ts";
import { isClosed, toStoreError } from "./errors.ts";
import { passGate } from "./gates.ts";
import { type TransactionHandle, handleOf } from "./handle.ts";
import { cellsOf, entryColumns } from "./mapping.ts";
import { type Sql, joined, sql } from "./sql.ts";
import type { Tables } from "./tables.ts";

/** As many as two bytes of a hash tell apart. Two keys that share a lock wait for each other, and that is all. */
export const keyLocks = 65_536;

/** A longer list may be read in another order than that of the locks, and then transactions deadlock. */
const maxStatementKeys = 500;
/** What one statement takes at most: it is built, sent and parsed as a whole. */
const maxStatementRows = 1_000;
const maxStatementBytes = 4 * 1_048_576;

type Emit = (handle: unknown, entries: readonly OutboxEntry[]) => Promise<void>;

export function createEmit(database: MysqlDatabase, meet: Meet): Emit {
  const add = async (tx: TransactionHandle, entries: readonly OutboxEntry[]): Promise<void> => {
    const { tables, maxPacket } = database.server;
    const inserts = [...insertsOf(tables, entries, maxPacket)];
    await meet(tx);
    for (const statement of locksOf(tables, entries)) {
      const { inTransaction } = await tx.run(statement);
      if (inTransaction) continue;
      throw new StoreError(
        "ERR_TX",
        "there is no open transaction on this connection: await its beginTransaction() first",
      );
    }
    for (const statement of inserts) {
      const { inTransaction } = await tx.run(statement);
      if (inTransaction) continue;
      throw new StoreError(
        "ERR_TX",
        "the transaction ended while a message was added to it, which leaves all the same: await publish before COMMIT",
      );
    }
  };

  const queues = new WeakMap<object, AppendQueue>();
  return (handle, entries) => {
    const tx = handleOf(handle);
    const queue = queues.get(tx.connection) ?? createAppendQueue();
    queues.set(tx.connection, queue);
    return queue.push(entries, (all) =>
      add(tx, all).catch((error: unknown) => {
        if (!isClosed(error)) throw toStoreError("adding to the outbox", error);
        throw new StoreError("ERR_TX", "the connection is closed: its transaction has ended", {
          cause: error,
        });
      }),
    );
  };
}

/**
 * Keys in the order of their locks, so that transactions that send for the same ones do not deadlock. Into a variable,
 * because the server tells of no result but an empty one whether a transaction is open; DO would hide that a lock could not
 * be had.
 */
function* locksOf(tables: Tables, entries: readonly OutboxEntry[]): Generator<Sql> {
  const ids = [...new Set(entries.flatMap(lockOf))].toSorted((a, b) => a - b);
  if (ids.length === 0) yield sql`SELECT ${passGate(tables)} INTO @postrider`;
  for (let start = 0; start < ids.length; start += maxStatementKeys) {
    const part = ids.slice(start, start + maxStatementKeys);
    // FORCE INDEX: reading the whole table would lock, and wait for, all of it.
    yield sql`SELECT ${passGate(tables)} + (SELECT COUNT(*) FROM ${tables.keys} FORCE INDEX (PRIMARY)
      WHERE id IN (${part}) FOR UPDATE) INTO @postrider`;
  }
}

function lockOf(entry: OutboxEntry): readonly number[] {
  const key = orderKey(entry);
  return key === undefined ? [] : [createHash("sha256").update(key).digest().readUInt16BE(0)];
}

function* insertsOf(tables: Tables, entries: readonly OutboxEntry[], maxPacket: number): Generator<Sql> {
  const head = sql`INSERT INTO ${tables.outbox} (${entryColumns}, created_at) VALUES `;
  const statement = (rows: readonly Sql[]): Sql => sql`${head}${joined(rows, ", ")}`;
  let rows: Sql[] = [];
  let bytes = 0;
  for (const entry of entries) {
    const row = sql`(${cellsOf(entry)}, UTC_TIMESTAMP(6))`;
    const size = row.text.length;
    if (size + head.text.length >= maxPacket) throw tooLarge(entry, size, maxPacket);
    const full =
      rows.length === maxStatementRows || bytes + size > Math.min(maxStatementBytes, maxPacket / 2);
    if (rows.length > 0 && full) {
      yield statement(rows);
      [rows, bytes] = [[], 0];
    }
    rows.push(row);
    bytes += size;
  }
  yield statement(rows);
}

/** The server would close the connection. */
function tooLarge({ destination }: OutboxEntry, size: number, maxPacket: number): StoreError {
  return new StoreError(
    "ERR_STORE",
    `a message for topic "${destination.topic.name}" takes a statement of ${size} bytes, and the server takes ${maxPacket} at most. Raise max_allowed_packet, or send less`,
    { retryable: false },
  );
}
