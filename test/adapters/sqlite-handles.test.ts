/** What `bus.outbox` refuses on SQLite although it is an open transaction on the store's file. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { createBus, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { sqliteStore } from "postrider/sqlite";
import { it, onTestFinished } from "vitest";
import type { DatabaseSync } from "node:sqlite";

it("refuses better-sqlite3, a second SQLite in the process, with the reason", async () => {
  const folder = await mkdtemp(join(tmpdir(), "postrider-sqlite-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  await using bus = createBus({ adapter: memory(), store: sqliteStore({ path: join(folder, "app.db") }) });
  await bus.connect();
  const other = new Database(join(folder, "other.db"));
  onTestFinished(() => void other.close());
  other.exec("BEGIN IMMEDIATE");

  const published = bus.outbox(other as unknown as DatabaseSync).publish(defineTopic<string>("t"), "no");

  await assert.rejects(published, {
    name: "StoreError",
    code: "ERR_TX",
    retryable: false,
    message: /better-sqlite3: it is a second SQLite in this process.*Use a DatabaseSync of node:sqlite/u,
  });
});
