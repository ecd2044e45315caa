/** The handles `bus.outbox` takes: the user's own connection, or the transaction a handler got. */
import type { DatabaseSync } from "node:sqlite";
import { StoreError } from "../../src/spi.ts";
import { resultCode, storeError } from "./errors.ts";
import { realPath } from "./open.ts";
import { nodeSqlite } from "./sql.ts";

/** Handles known to be connections to a file, by its path: a `DatabaseSync` stays with its file. */
const checked = new WeakMap<DatabaseSync, string>();

/** Throws `ERR_TX` unless `handle` is a connection to the file at `path` with an open transaction. Changes nothing. */
export function checkHandle(handle: unknown, path: string): asserts handle is DatabaseSync {
  if (isBetterSqlite(handle)) {
    throw new StoreError(
      "ERR_TX",
      "outbox cannot take a Database of better-sqlite3: it is a second SQLite in this process, the two undo each other's locks on the file, and what was committed gets lost. Use a DatabaseSync of node:sqlite, here and for whatever else this process does with the file",
    );
  }
  if (!(handle instanceof nodeSqlite().DatabaseSync)) {
    throw new StoreError(
      "ERR_TX",
      "outbox takes a DatabaseSync of node:sqlite with an open transaction, or the tx of a handler or of bus.transaction",
    );
  }
  try {
    if (!isInTransaction(handle)) {
      throw new StoreError(
        "ERR_TX",
        'this DatabaseSync has no open transaction: call db.exec("BEGIN IMMEDIATE") before, and COMMIT after',
      );
    }
    if (checked.get(handle) !== path) checkFile(handle, path);
    checked.set(handle, path);
  } catch (error) {
    if ((error as { readonly code?: unknown }).code !== "ERR_INVALID_STATE")
      throw storeError("outbox", path, error);
    throw new StoreError("ERR_TX", "this DatabaseSync is closed: its transaction has ended", {
      cause: error,
    });
  }
}

/**
 * POSIX locks belong to the process: when one library closes the file, those of the other are gone, and another process
 * writes into its transactions (sqlite.org/howtocorrupt.html, 2.2.1).
 */
function isBetterSqlite(handle: unknown): boolean {
  return typeof handle === "object" && handle !== null && "inTransaction" in handle && "prepare" in handle;
}

/** Node 22.13 has no `isTransaction`; there a BEGIN tells, which takes no lock and fails inside a transaction. */
function isInTransaction(db: DatabaseSync): boolean {
  if ("isTransaction" in db) return db.isTransaction;
  try {
    (db as DatabaseSync).exec("BEGIN");
  } catch (error) {
    if (resultCode(error) === 1) return true;
    throw error;
  }
  (db as DatabaseSync).exec("ROLLBACK");
  return false;
}

/** Only `main` counts: a commit over attached files is not atomic in WAL mode (sqlite.org/lang_attach.html). */
function checkFile(db: DatabaseSync, path: string): void {
  const files = db.prepare("PRAGMA database_list").all() as unknown as { name: string; file: string }[];
  const file = files.find(({ name }) => name === "main")?.file ?? "";
  if (file !== "" && realPath(file) === realPath(path)) return;
  throw new StoreError(
    "ERR_TX",
    `this DatabaseSync is of another database, ${file === "" ? "in memory" : file}; the store is in ${path}. Open that file, or give the store the path of yours`,
  );
}
