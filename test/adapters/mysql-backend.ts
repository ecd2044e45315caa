/** MariaDB for the suites: the memory adapter over a database, and the store by itself behind a proxy. */
import { type Connection, createConnection } from "mysql2/promise";
import { mysql } from "postrider/mysql";
import type { Backend } from "postrider/testing";
import type { StoreBackend } from "postrider/testing";
import { createBackend as createMemoryBackend } from "../support/backends/memory.ts";
import { startFaultProxy } from "../support/fault-proxy.ts";
import { openMysqlDatabase } from "../support/mysql-database.ts";

/** What the conformance suite says of the store in a bus. */
export async function createBackend(): Promise<Backend> {
  const memory = await createMemoryBackend();
  const database = await openMysqlDatabase();
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
      const database = await openMysqlDatabase(options);
      const { hostname: host, port } = new URL(database.url);
      const proxy = await startFaultProxy({ target: { host, port: Number(port) } });
      const url = Object.assign(new URL(database.url), { port: `${proxy.port}` }).href;
      return {
        ...database,
        store: () => Promise.resolve(mysql({ url })),
        async fail(tx) {
          await (tx as Connection).query("SELECT * FROM no_such_table");
        },
        async execute(sql) {
          const connection = await createConnection({ uri: database.url, multipleStatements: true });
          try {
            await connection.query(sql);
          } finally {
            await connection.end();
          }
        },
        async makeOld() {
          await database.pool.query("UPDATE postrider_meta SET version = 0");
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
