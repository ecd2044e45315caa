/** PostgreSQL for the suites: the memory adapter over a database, and the store by itself behind a proxy. */
import type { ClientBase } from "pg";
import { postgres } from "postrider/postgres";
import type { Backend } from "postrider/testing";
import type { StoreBackend } from "postrider/testing";
import { createBackend as createMemoryBackend } from "../support/backends/memory.ts";
import { startFaultProxy } from "../support/fault-proxy.ts";
import { openPostgresDatabase } from "../support/postgres-database.ts";

/** What the conformance suite says of the store in a bus. */
export async function createBackend(): Promise<Backend> {
  const memory = await createMemoryBackend();
  const database = await openPostgresDatabase();
  return {
    ...memory,
    database,
    async close() {
      await database.close();
      await memory.close();
    },
  };
}

/** Stores go through a proxy, everything else goes straight to the server. */
export async function openStoreBackend(): Promise<StoreBackend> {
  return {
    server: true,
    async open(options) {
      const database = await openPostgresDatabase(options);
      const { hostname: host, port } = new URL(database.url);
      const proxy = await startFaultProxy({ target: { host, port: Number(port) } });
      const url = Object.assign(new URL(database.url), { port: `${proxy.port}` }).href;
      return {
        ...database,
        store: () => Promise.resolve(postgres({ url })),
        async fail(tx) {
          await (tx as ClientBase).query("SELECT 1 / 0");
        },
        async execute(sql) {
          await database.pool.query(sql);
        },
        async makeOld() {
          await database.pool.query("UPDATE postrider.meta SET version = 0");
        },
        faults: { holdReplies: async () => proxy.holdReplies(), cutConnections: () => proxy.cut() },
        async close() {
          await proxy.close();
          await database.close();
        },
      };
    },
    close: () => Promise.resolve(),
  };
}
