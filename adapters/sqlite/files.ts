/** The files in use in this process: broker and store on one path share one, and so do several buses. */
import type { Runtime } from "../../src/spi.ts";
import { SqliteFile } from "./file.ts";
import { identityOf, openConnection, realPath } from "./open.ts";
import { type Part, versionOf } from "./schema.ts";
import { Sql } from "./sql.ts";

interface Entry {
  readonly file: SqliteFile;
  users: number;
}

/** By runtime, so that a bus with a clock of its own has timers of its own. */
const files = new WeakMap<Runtime, Map<string, Entry>>();

/** The file at `path` for one more user; `release` it. Opens nothing yet. */
export function acquireFile(path: string, runtime: Runtime): SqliteFile {
  let known = files.get(runtime);
  if (known === undefined) files.set(runtime, (known = new Map()));
  const key = realPath(path);
  let entry = known.get(key);
  if (entry === undefined) known.set(key, (entry = { file: new SqliteFile(key, runtime), users: 0 }));
  entry.users += 1;
  return entry.file;
}

/** Ends one use; with the last one what is queued is finished and the connection closed. */
export async function releaseFile(file: SqliteFile): Promise<void> {
  const known = files.get(file.runtime);
  const entry = known?.get(file.path);
  if (entry === undefined || entry.file !== file) return;
  entry.users -= 1;
  if (entry.users > 0) return;
  known?.delete(file.path);
  await file.close();
}

/** The part's version in the file at `path`, which is neither made nor changed. */
export function versionAt(path: string, part: Part): number {
  if (identityOf(path) === undefined) return 0;
  const db = openConnection(path);
  try {
    return versionOf(new Sql(db), part);
  } finally {
    db.close();
  }
}
