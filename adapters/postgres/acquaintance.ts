/** What is asked once of each connection that transactions come on. */
import { createHash } from "node:crypto";
import { StoreError } from "../../src/spi.ts";
import type { PostgresDatabase, Statement } from "./connection.ts";
import { isMissing } from "./errors.ts";
import type { TransactionHandle } from "./handle.ts";
import type { Tables } from "./tables.ts";

export interface Acquaintance {
  /** No pooler in between: statements may be prepared, and the server's process is this connection's own. */
  readonly direct: boolean;
  /** Tell the server's process from any other, also a later one of the same number. */
  readonly processId: string;
  readonly startedAt: string;
  /** Id of the transaction in which this was asked; without one, of the statement itself. */
  readonly transactionId: string;
}

/** Throws `ERR_TX` unless the connection is to the store's database. */
export type Meet = (tx: TransactionHandle) => Promise<Acquaintance>;

const startedAt = "extract(epoch FROM backend_start)::text";

export const transactionId = "pg_current_xact_id()::text";

/** `databaseId` as it was read at connect. */
export function createMeet(database: PostgresDatabase, tables: Tables, databaseId: () => string): Meet {
  const known = new WeakMap<object, Acquaintance>();

  const requireOurs = (id: string | null | undefined, cause?: unknown): void => {
    if (id === databaseId()) return;
    const text = `the transaction is on another database than the store's, which is ${database.name}`;
    throw new StoreError("ERR_TX", text, { cause });
  };

  return async (tx) => {
    const before = known.get(tx.connection);
    if (before !== undefined) return before;
    const text = `SELECT database_id, a.pid::text AS pid, ${startedAt} AS started_at, ${transactionId} AS transaction_id
      FROM ${tables.meta}, pg_stat_get_activity(pg_backend_pid()) AS a`;
    const { rows } = await tx.run({ text }).catch((error: unknown) => {
      if (isMissing(error)) requireOurs(undefined, error);
      throw error;
    });
    const [id, processId, started, transaction] = rows[0] ?? [];
    requireOurs(id);
    // A pooler makes up the process id that it tells its clients; a PGlite is one session for all of them.
    const met = {
      direct: Number(processId) === tx.processId && !database.isPglite,
      processId: processId ?? "",
      startedAt: started ?? "",
      transactionId: transaction ?? "",
    };
    known.set(tx.connection, met);
    return met;
  };
}

/**
 * Ends the server's process of a connection that was closed in the middle of a statement. It would notice only at the
 * end of that statement, and keep its locks until then. Behind a pooler the process is not ours to end.
 */
export function endProcess(
  database: PostgresDatabase,
  { direct, processId, startedAt: at }: Acquaintance,
): void {
  if (!direct) return;
  const text = `SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE pid = $1::int AND ${startedAt} = $2`;
  // Only a matter of time: the locks go with the connection.
  database.query("ending an abandoned transaction", { text, values: [processId, at] }).catch(() => undefined);
}

/** `statement`, prepared where that can be. Only for plans that cannot go bad. */
export function preparedOn({ direct }: Acquaintance, statement: Statement): Statement {
  if (!direct) return statement;
  let name = names.get(statement.text);
  if (name === undefined) {
    // By its text, because two versions or schemas may share a connection.
    name = `postrider_${createHash("sha256").update(statement.text).digest("hex").slice(0, 16)}`;
    names.set(statement.text, name);
  }
  return { ...statement, name };
}

const names = new Map<string, string>();
