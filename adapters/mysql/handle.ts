/**
 * What `bus.outbox(handle)` takes: open transactions of the user's own, recognised by their shape. Whatever it is, our
 * statements go through it and nothing else.
 */
import type { Connection as CallbackConnection } from "mysql2";
import type { Connection } from "mysql2/promise";
import { StoreError } from "../../src/spi.ts";
import { connectionOf } from "./guard.ts";
import { type Run, runOn } from "./query.ts";

export interface TransactionHandle {
  /** The same object for the same connection, to check things once for each. */
  readonly connection: object;
  readonly run: Run;
}

/** Throws `ERR_TX` when it is nothing we know. */
export function handleOf(handle: unknown): TransactionHandle {
  if (typeof handle === "object" && handle !== null) {
    const callback = callbackConnectionOf(handle);
    if (callback !== undefined) {
      const run = runOn(handle as Connection | CallbackConnection);
      return { connection: connectionOf(callback), run };
    }
    if ("getConnection" in handle) {
      throw new StoreError(
        "ERR_TX",
        "a Pool is not a transaction: take a connection with pool.getConnection(), await its beginTransaction(), and pass the connection",
      );
    }
  }
  throw new StoreError("ERR_TX", "the outbox takes a mysql2 Connection inside of a transaction");
}

/** The connection of `mysql2`, which that of `mysql2/promise` is a coat around. */
function callbackConnectionOf(handle: object): object | undefined {
  if (!("query" in handle) || "getConnection" in handle) return undefined;
  if ("promise" in handle && "threadId" in handle) return handle;
  const { connection } = handle as { readonly connection?: unknown };
  return typeof connection === "object" && connection !== null ? callbackConnectionOf(connection) : undefined;
}
