import assert from "node:assert/strict";
import { mysql } from "postrider/mysql";
import { it, vi } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import { entry } from "../../src/testing/store/world.ts";
import { openMysqlDatabase } from "../support/mysql-database.ts";
import { crashes } from "./store-crash.ts";

const server = crashes({
  name: "mariadb",
  variables: { port: "POSTRIDER_MARIADB_PORT", url: "POSTRIDER_TEST_MYSQL_URL" },
  port: 22_606,
  open: openMysqlDatabase,
});

it("a transaction on another server is refused, whatever is there", { timeout: 60_000 }, async () => {
  vi.unstubAllEnvs();
  const [database, other] = [await openMysqlDatabase(), await openMysqlDatabase({ server: server().url })];
  const name = new URL(database.url).pathname.slice(1);
  const store = await database.store();
  await store.connect({ runtime: nodeRuntime, emit: () => undefined });
  const refusal = {
    code: "ERR_TX",
    retryable: false,
    message: /on another server than the store's database/u,
  };

  const missing = await other.begin();
  await assert.rejects(store.outbox.append(missing.handle, [entry("no")]), refusal);
  await missing.rollback();
  // A database of the same name, with tables of its own.
  await other.pool.query(`CREATE DATABASE ${name}`);
  const twin = mysql({ url: Object.assign(new URL(other.url), { pathname: `/${name}` }).href });
  await twin.migrate();
  const own = await other.begin();
  await assert.rejects(store.outbox.append(own.handle, [entry("no")]), refusal);
  await own.commit();

  const [rows] = await other.pool.query(`SELECT id FROM ${name}.postrider_outbox`);
  assert.deepEqual(rows, []);
  await Promise.all([store.close(), twin.close()]);
  await Promise.all([database.close(), other.close()]);
});
