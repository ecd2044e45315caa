/**
 * Adding to the outbox, in the caller's transaction. In this order, within one statement: the ordering keys are locked,
 * the transaction gets its id, the rows draw theirs.
 *
 * The lock makes the order of a key's rows the order of their commits: two transactions that send for one key take turns.
 * The transaction id before the rows' ids is what lets the relay's low-water mark be exact: whoever owns a row has an
 * older id than any transaction begun after that row was seen.
 */
import {
  type AppendQueue,
  type OutboxEntry,
  StoreError,
  createAppendQueue,
  orderKey,
} from "../../src/spi.ts";
import { type Acquaintance, type Meet, preparedOn, transactionId } from "./acquaintance.ts";
import type { PostgresDatabase, Statement } from "./connection.ts";
import { toStoreError } from "./errors.ts";
import { type TransactionHandle, handleOf } from "./handle.ts";
import { type EntryCells, cellsOf, entryColumns, entryTypes } from "./mapping.ts";
import type { Tables } from "./tables.ts";

/** What one statement takes at most: the parameter is built, sent and parsed as a whole. */
const maxStatementEntries = 5_000;
const maxStatementChars = 16 * 1_048_576;

interface Statements {
  readonly one: string;
  readonly many: string;
  readonly lock: string;
}

type Emit = (handle: unknown, entries: readonly OutboxEntry[]) => Promise<void>;

export function createEmit(database: PostgresDatabase, tables: Tables, meet: Meet): Emit {
  const statements = statementsOf(tables);

  const add = async (tx: TransactionHandle, entries: readonly OutboxEntry[]): Promise<void> => {
    requireRoom(entries, database.locks);
    requireOpen(tx);
    const acquaintance = await meet(tx);
    const within = await transactionOf(tx, acquaintance);
    for (const statement of plan(statements, entries, acquaintance, within)) {
      const { rows, after } = await tx.run(statement);
      if (within !== undefined && rows.length === 0) throw notOpen(tx);
      if (after === "none") {
        throw new StoreError(
          "ERR_TX",
          "the transaction ended while a message was added to it, which leaves all the same: await publish before COMMIT",
        );
      }
    }
  };

  const queues = new WeakMap<object, AppendQueue>();
  return (handle, entries) => {
    const tx = handleOf(handle);
    const queue = queues.get(tx.connection) ?? createAppendQueue();
    queues.set(tx.connection, queue);
    return queue.push(entries, (all) =>
      add(tx, all).catch((error: unknown) => {
        throw toStoreError("adding to the outbox", error);
      }),
    );
  };
}

/** One lock per ordering key: when the server runs out of them, so do the transactions of everybody else. */
function requireRoom(entries: readonly OutboxEntry[], locks: number): void {
  const room = Math.floor(locks / 2);
  if (entries.length <= room) return;
  const keys = new Set(entries.map(lockKey)).size;
  if (keys <= room) return;
  throw new StoreError(
    "ERR_STORE",
    `messages for ${keys} different keys cannot be added at once: the server has room for ${locks} locks in all. Split the transaction, or raise max_locks_per_transaction`,
    { retryable: false },
  );
}

function requireOpen(tx: TransactionHandle): void {
  const state = tx.state();
  if (state === "none") throw notOpen(tx);
  if (state === "failed")
    throw new StoreError("ERR_TX", "the transaction has failed: roll it back; nothing can be added to it");
}

function notOpen({ remedy }: TransactionHandle): StoreError {
  return new StoreError("ERR_TX", `there is no open transaction on ${remedy}`);
}

/**
 * The id of the transaction, where the handle cannot say that it is still open. Statements are then bound to that id:
 * outside of the transaction each has another, and adds nothing.
 */
async function transactionOf(tx: TransactionHandle, acquaintance: Acquaintance): Promise<string | undefined> {
  if (tx.state() === "open") return undefined;
  if (tx.single) return acquaintance.transactionId;
  const { rows } = await tx.run({ text: `SELECT ${transactionId} AS transaction_id` });
  return rows[0]?.[0] ?? "";
}

function* plan(
  { one, many, lock }: Statements,
  entries: readonly OutboxEntry[],
  acquaintance: Acquaintance,
  within: string | undefined,
): Generator<Statement> {
  const [first] = entries;
  if (first !== undefined && entries.length === 1 && within === undefined) {
    // An INSERT has no plan that could go bad.
    yield preparedOn(acquaintance, { text: one, values: [lockKey(first), ...cellsOf(first)] });
    return;
  }
  const parts = Array.from(parted(entries.map((entry) => [lockKey(entry), ...cellsOf(entry)])));
  // Each statement locks its keys in order; over several, only all of them at once do.
  if (parts.length > 1) yield { text: lock, values: [within, JSON.stringify(entries.map(lockKey))] };
  for (const part of parts)
    yield { text: many, values: [within, JSON.stringify(part.map((row) => Object.assign({}, row)))] };
}

function* parted(rows: readonly EntryCells[]): Generator<readonly EntryCells[]> {
  let part: EntryCells[] = [];
  let chars = 0;
  for (const row of rows) {
    const size = row.reduce((sum: number, cell) => sum + (typeof cell === "string" ? cell.length : 8), 0);
    if (part.length > 0 && (part.length === maxStatementEntries || chars + size > maxStatementChars)) {
      yield part;
      [part, chars] = [[], 0];
    }
    part.push(row);
    chars += size;
  }
  yield part;
}

/** The ordering key as text without anything PostgreSQL could not take. */
function lockKey(entry: OutboxEntry): string | null {
  const key = orderKey(entry);
  return key === undefined ? null : JSON.stringify(key);
}

function statementsOf(tables: Tables): Statements {
  const columns = entryColumns.join(", ");
  const seed = tables.seed("outbox");
  const cells = entryTypes.map((type, i) => `$${i + 2}::${type}`).join(", ");
  // One parameter, whatever the number of rows: objects by position, `{"0": lock key, "1": topic, …}`.
  const record = ["text", ...entryTypes].map((type, i) => `"${i}" ${type}`).join(", ");
  const fields = entryTypes.map((_, i) => `j."${i + 1}"`).join(", ");
  const sorted = (keys: string): string =>
    `SELECT pg_advisory_xact_lock(x) FROM (SELECT DISTINCT hashtextextended(k, ${seed}) AS x FROM ${keys} ORDER BY 1 OFFSET 0) AS d`;
  // The lock is skipped for a key that is NULL. In the target list of a MATERIALIZED query: the planner drops it from a WHERE.
  const one = `WITH l AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended($1::text, ${seed})), pg_current_xact_id())
    INSERT INTO ${tables.outbox} (${columns}) SELECT ${cells} FROM l`;
  // One row, unless this is not the transaction that it is meant for.
  const here = `here AS MATERIALIZED (SELECT 1::text AS added FROM (SELECT ${transactionId} AS id) AS t WHERE id = coalesce($1::text, id))`;
  return {
    one,
    many: `WITH ${here},
      j AS MATERIALIZED (SELECT j.* FROM here CROSS JOIN
        ROWS FROM (json_to_recordset($2::json) AS (${record})) WITH ORDINALITY AS j),
      l AS MATERIALIZED (${sorted(`(SELECT "0" AS k FROM j WHERE "0" IS NOT NULL) AS keys`)}),
      n AS MATERIALIZED (SELECT count(*) FROM l),
      i AS (INSERT INTO ${tables.outbox} (${columns}) SELECT ${fields} FROM n CROSS JOIN j ORDER BY j.ordinality)
      SELECT added FROM here`,
    lock: `WITH ${here},
      l AS MATERIALIZED (${sorted("here CROSS JOIN json_array_elements_text($2::json) AS keys(k) WHERE k IS NOT NULL")}),
      n AS MATERIALIZED (SELECT count(*) FROM l)
      SELECT added FROM here CROSS JOIN n`,
  };
}
