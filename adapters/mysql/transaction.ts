/** `store.transaction`: a handler's work on a connection of its own. */
import type { PoolConnection } from "mysql2/promise";
import type { Meet } from "./acquaintance.ts";
import type { Checkout, MysqlDatabase } from "./connection.ts";
import { isDeadlock, isLocked } from "./errors.ts";
import { type GuardedConnection, guardConnection } from "./guard.ts";
import { handleOf } from "./handle.ts";
import { sql } from "./sql.ts";

/** See `Store.transaction`. `fn` gets a connection that works until the transaction ends. */
export async function runTransaction<T>(
  database: MysqlDatabase,
  meet: Meet,
  fn: (tx: PoolConnection) => Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  const ended = Promise.withResolvers<never>();
  ended.promise.catch(() => undefined);
  const checkout = await database.checkout(signal, ended.reject);
  await begin(database, checkout, meet);
  const rollsBack = (error: unknown): boolean =>
    isDeadlock(error) || (database.server.rollsBackOnTimeout && isLocked(error));
  const guarded = guardConnection(checkout.connection, rollsBack);
  const aborted = (): void => ended.reject(signal?.reason);
  signal?.addEventListener("abort", aborted, { once: true });
  if (signal?.aborted === true) aborted();

  const work = (async () => fn(guarded.tx))();
  let settled = false;
  const settling = work.finally(() => (settled = true));
  let result: T;
  try {
    result = await Promise.race([settling, ended.promise]);
  } catch (error) {
    guarded.end();
    // Aborted, `fn` may have settled while something it started still runs.
    if (settled && signal?.aborted !== true) await rollback(checkout);
    else abandon(database, checkout);
    throw error;
  } finally {
    signal?.removeEventListener("abort", aborted);
    // Once it was cut off, what becomes of it has no taker.
    settling.catch(() => undefined);
  }
  guarded.end();
  await commit(database, checkout, guarded);
  return result;
}

async function begin(
  database: MysqlDatabase,
  { connection, run, destroy }: Checkout,
  meet: Meet,
): Promise<void> {
  try {
    // Before the transaction, because a read in it may fix what it sees from then on.
    await meet(handleOf(connection));
    await run(sql`START TRANSACTION`);
  } catch (error) {
    destroy();
    throw database.failed("beginning a transaction", error);
  }
}

async function commit(
  database: MysqlDatabase,
  { run, release, destroy }: Checkout,
  guarded: GuardedConnection,
): Promise<void> {
  try {
    await run(sql`COMMIT`);
  } catch (error) {
    destroy();
    throw database.failed("committing; whether it took effect is not known", error);
  }
  release();
  // Only now, because there may have been statements that the handler did not wait for.
  if (guarded.endedEarly !== undefined) throw guarded.endedEarly;
}

async function rollback({ run, release, destroy }: Checkout): Promise<void> {
  try {
    await run(sql`ROLLBACK`);
    release();
  } catch {
    // Closing the connection rolls back as well; the error that led here is the one to report.
    destroy();
  }
}

/**
 * Closes the connection while `fn` may still use it: nothing more of it can take effect. The server's side of it would
 * notice only at the end of a statement that it runs, and keep its locks until then, so it is ended too. It is known by
 * its number and by the port it comes from; behind a proxy that is another, and the server's own to end.
 */
function abandon(database: MysqlDatabase, { connection, destroy }: Checkout): void {
  const { threadId } = connection;
  const { stream } = connection.connection as unknown as { stream?: { readonly localPort?: number } };
  const from = stream?.localPort === undefined ? "localhost" : `%:${stream.localPort}`;
  destroy();
  // Only a matter of time: the locks go with the connection.
  database
    .session("ending an abandoned transaction", async (run) => {
      const { rows } = await run(
        sql`SELECT id FROM information_schema.processlist WHERE id = ${threadId} AND host LIKE ${from}`,
      );
      if (rows.length > 0) await run(sql`KILL ${threadId}`);
    })
    .catch(() => undefined);
}
