/** What is asked once of each connection that transactions come on. */
import { StoreError } from "../../src/spi.ts";
import type { MysqlDatabase } from "./connection.ts";
import { isOutOfReach } from "./errors.ts";
import type { TransactionHandle } from "./handle.ts";
import { sql } from "./sql.ts";

/** Throws `ERR_TX` unless the connection is to the store's server. */
export type Meet = (tx: TransactionHandle) => Promise<void>;

/**
 * `databaseId` as it was read at connect. A transaction may span databases of one server, and our statements name theirs:
 * what matters is the server.
 */
export function createMeet(database: MysqlDatabase, databaseId: () => string): Meet {
  const known = new WeakSet<object>();

  const requireOurs = (id: string | undefined, cause?: unknown): void => {
    if (id === databaseId()) return;
    const text = `the transaction is on another server than the store's ${database.server.name}, or may not use that`;
    throw new StoreError("ERR_TX", text, { cause });
  };

  return async ({ connection, run }) => {
    if (known.has(connection)) return;
    const { rows } = await run(sql`SELECT database_id FROM ${database.tables.meta}`).catch(
      (error: unknown) => {
        if (isOutOfReach(error)) requireOurs(undefined, error);
        throw error;
      },
    );
    requireOurs(rows[0]?.map(String)[0]);
    known.add(connection);
  };
}
