/** Opening connections, and knowing whether a path still leads to the file that was opened. */
import { type FSWatcher, mkdirSync, realpathSync, statSync, watch } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { type Cancel, ConfigurationError } from "../../src/spi.ts";
import { nodeSqlite } from "./sql.ts";

/** Makes the file with its folder, and write-ahead logging its mode for good. Throws SQLite's error, or the file system's. */
export function openDatabase(path: string): DatabaseSync {
  mkdirSync(dirname(path), { recursive: true });
  const db = openConnection(path);
  try {
    const mode = db.prepare("PRAGMA journal_mode = WAL").get() as { readonly journal_mode: string };
    if (mode.journal_mode !== "wal") {
      throw new ConfigurationError(
        "ERR_CONFIG",
        `${path} cannot have a write-ahead log: SQLite says journal_mode ${mode.journal_mode}. Use a file on a local disk`,
      );
    }
    db.exec("PRAGMA journal_size_limit = 67108864");
    return db;
  } catch (error) {
    db.close();
    throw error;
  }
}

/**
 * A connection for durable work: flushed at every commit. Waiting for a lock inside SQLite would block the event loop, so
 * there nobody waits.
 */
export function openConnection(path: string): DatabaseSync {
  const { DatabaseSync } = nodeSqlite();
  const db = new DatabaseSync(path);
  try {
    db.exec("PRAGMA busy_timeout = 0; PRAGMA synchronous = FULL");
    return db;
  } catch (error) {
    db.close();
    throw error;
  }
}

/** Calls back when the write-ahead log was written, by whatever process: a hint, which not every file system gives. */
export function watchLog(path: string, listener: () => void): Cancel {
  let watcher: FSWatcher | undefined;
  try {
    watcher = watch(`${path}-wal`, { persistent: false }, listener);
    watcher.on("error", () => watcher?.close());
  } catch {
    // Not there yet, or out of watches: then there are no hints.
  }
  return () => watcher?.close();
}

/** One name for one file, however it is reached. */
export function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    // It is not there yet; its folder may be.
  }
  try {
    return join(realpathSync(dirname(path)), basename(path));
  } catch {
    return path;
  }
}

/** Which file is at the path now; `undefined` when there is none. */
export function identityOf(path: string): string | undefined {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? undefined : `${stat.dev}:${stat.ino}`;
}
