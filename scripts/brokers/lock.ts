/** Mutual exclusion between processes, and between callers in one process. */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";

export type LockOptions = {
  /** Called once if somebody else holds the lock. */
  readonly onWait?: () => void;
  readonly withinMs?: number;
};

const SQLITE_BUSY = 5;

/**
 * Runs `work` while no other caller holds the lock on `file`.
 *
 * A file that exists while it is held, with a pid inside, goes stale when its holder is killed, and two
 * waiters that find it stale can both take it. SQLite locks the file through the kernel instead, which
 * frees it with its holder, however that one ended.
 */
export async function withLock<T>(
  file: string,
  work: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  const { onWait, withinMs = 900_000 } = options;
  mkdirSync(dirname(file), { recursive: true });
  const deadline = performance.now() + withinMs;
  let told = false;
  let database = tryLock(file);
  while (!database) {
    if (!told) onWait?.();
    told = true;
    if (performance.now() > deadline) throw new Error(`${file} is held by another process for too long`);
    await sleep(50);
    database = tryLock(file);
  }
  try {
    return await work();
  } finally {
    database.close();
  }
}

function tryLock(file: string): DatabaseSync | undefined {
  const database = new DatabaseSync(file);
  try {
    database.exec("BEGIN EXCLUSIVE");
    return database;
  } catch (error) {
    database.close();
    if ((error as { errcode?: number }).errcode === SQLITE_BUSY) return undefined;
    throw error;
  }
}
