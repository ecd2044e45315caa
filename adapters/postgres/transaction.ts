/** `store.transaction`: a handler's work on a connection of its own. */
import type { PoolClient } from "pg";
import { StoreError } from "../../src/spi.ts";
import { type Acquaintance, type Meet, endProcess } from "./acquaintance.ts";
import type { Checkout, PostgresDatabase } from "./connection.ts";
import { queryOf } from "./connection.ts";
import { guardClient } from "./guard.ts";
import { handleOf } from "./handle.ts";

/** See `Store.transaction`. `fn` gets a client that works until the transaction ends. */
export async function runTransaction<T>(
  database: PostgresDatabase,
  meet: Meet,
  fn: (tx: PoolClient) => Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  const ended = Promise.withResolvers<never>();
  ended.promise.catch(() => undefined);
  const checkout = await database.checkout(signal, ended.reject);
  const acquaintance = await begin(database, checkout, meet);
  const { tx, end } = guardClient(checkout.client);
  const aborted = (): void => ended.reject(signal?.reason);
  signal?.addEventListener("abort", aborted, { once: true });
  if (signal?.aborted === true) aborted();

  const work = (async () => fn(tx))();
  let settled = false;
  const settling = work.finally(() => (settled = true));
  let result: T;
  try {
    result = await Promise.race([settling, ended.promise]);
  } catch (error) {
    end();
    // Aborted, `fn` may have settled while something it started still runs.
    if (settled && signal?.aborted !== true) await rollback(checkout);
    else abandon(database, checkout, acquaintance);
    throw error;
  } finally {
    signal?.removeEventListener("abort", aborted);
    // Once it was cut off, what becomes of it has no taker.
    settling.catch(() => undefined);
  }
  end();
  await commit(database, checkout);
  return result;
}

async function begin(
  database: PostgresDatabase,
  { client, release }: Checkout,
  meet: Meet,
): Promise<Acquaintance> {
  try {
    // Before BEGIN: the handler may still want to set the isolation level, which must come before any query.
    const acquaintance = await meet(handleOf(client));
    await client.query(queryOf({ text: "BEGIN" }));
    return acquaintance;
  } catch (error) {
    release(true);
    throw database.failed("beginning a transaction", error);
  }
}

async function commit(database: PostgresDatabase, { client, release }: Checkout): Promise<void> {
  if (handleOf(client).state() === "none") {
    release(false);
    throw new StoreError(
      "ERR_TX",
      "the transaction was ended by the handler itself: what it did after that took effect statement by statement",
    );
  }
  let command: string;
  try {
    ({ command } = await client.query(queryOf({ text: "COMMIT" })));
  } catch (error) {
    release(true);
    throw database.failed("committing; whether it took effect is not known", error);
  }
  release(false);
  // The server answers COMMIT with ROLLBACK, and no error, when a statement of the transaction had failed.
  if (command === "COMMIT") return;
  throw new StoreError(
    "ERR_TX",
    "nothing was committed: a statement failed, and the handler went on. Let its error through, or guard it with a savepoint",
  );
}

async function rollback({ client, release }: Checkout): Promise<void> {
  try {
    await client.query(queryOf({ text: "ROLLBACK" }));
    release(false);
  } catch {
    // Closing the connection rolls back as well; the error that led here is the one to report.
    release(true);
  }
}

/** Closes the connection while `fn` may still use it: nothing more of it can take effect. */
function abandon(database: PostgresDatabase, { release }: Checkout, acquaintance: Acquaintance): void {
  release(true);
  endProcess(database, acquaintance);
}
