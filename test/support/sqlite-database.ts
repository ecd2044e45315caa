/** A SQLite file with a table for effects, for the scenarios of outbox and inbox. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { sqliteStore } from "postrider/sqlite";
import type { TestDatabase, TestTransaction } from "postrider/testing";

/** On the file at `path`, or on a temporary one that `close` removes. */
export async function openSqliteDatabase(path?: string): Promise<TestDatabase & { readonly path: string }> {
  const folder = path === undefined ? await mkdtemp(join(tmpdir(), "postrider-sqlite-")) : undefined;
  const file = path ?? join(folder ?? "", "test.db");
  const reader = new DatabaseSync(file);
  await insist(() => reader.exec("PRAGMA journal_mode = WAL"));
  await insist(() => reader.exec("CREATE TABLE IF NOT EXISTS effects (id TEXT NOT NULL) STRICT"));

  return {
    path: file,
    store: async () => sqliteStore({ path: file }),
    begin: () => begin(file),
    async addEffect(tx, id) {
      (tx as DatabaseSync).prepare("INSERT INTO effects (id) VALUES (?)").run(id);
    },
    effects: async () =>
      reader
        .prepare("SELECT id FROM effects ORDER BY rowid")
        .all()
        .map(({ id }) => String(id)),
    reset: () => insist(() => reader.exec("DELETE FROM effects")),
    async refuseInbox() {
      const refusing = `CREATE TRIGGER refuse_inbox BEFORE INSERT ON postrider_inbox
        BEGIN SELECT raise(ABORT, 'the inbox is refused'); END`;
      await insist(() => reader.exec(refusing));
      return () => insist(() => reader.exec("DROP TRIGGER refuse_inbox"));
    },
    async close() {
      reader.close();
      if (folder !== undefined) await rm(folder, { recursive: true });
    },
  };
}

/** A transaction of the user's own: another handle, which knows nothing of the bus in this process. */
async function begin(path: string): Promise<TestTransaction> {
  const db = new DatabaseSync(path);
  await insist(() => db.exec("BEGIN IMMEDIATE"));
  const end = (statement: "COMMIT" | "ROLLBACK") => async () => {
    db.exec(statement);
    db.close();
  };
  return { handle: db, commit: end("COMMIT"), rollback: end("ROLLBACK") };
}

/** Waits for the file's lock without blocking: whoever has it may be in this very process. */
export async function insist(act: () => void): Promise<void> {
  for (;;) {
    try {
      return act();
    } catch (error) {
      if (((error as { errcode?: number }).errcode ?? 0) % 256 !== 5) throw error;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
}
