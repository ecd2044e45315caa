/** The memory adapter with a SQLite file as its database. */
import type { Backend } from "postrider/testing";
import { memory, type MemoryAdapter } from "postrider/memory";
import { openSqliteDatabase } from "../sqlite-database.ts";

export async function createBackend(): Promise<Backend> {
  const name = `conformance-${process.pid}-${performance.now()}`;
  const adapters = new Set<MemoryAdapter>();
  const database = await openSqliteDatabase();
  return {
    adapter() {
      const adapter = memory({ name });
      adapters.add(adapter);
      return adapter;
    },
    database,
    faults: {
      async holdReplies() {
        const { promise, resolve } = Promise.withResolvers<undefined>();
        for (const { faults } of adapters) faults.after = () => promise;
        return async () => {
          for (const { faults } of adapters) faults.after = undefined;
          resolve(undefined);
        };
      },
      async cutConnections() {
        for (const { faults } of adapters) faults.disconnect();
      },
      restartBroker: () => Promise.reject(new Error("there is no server")),
    },
    close: () => database.close(),
  };
}
