/** The memory adapter with a SQLite file as its database. */
import { TransportError } from "postrider";
import type { Backend } from "postrider/testing";
import { memory, type MemoryAdapter } from "postrider/memory";
import { openSqliteDatabase } from "../sqlite-database.ts";
import { bareProducer } from "./foreign.ts";

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
      stallConnections: () => Promise.reject(new Error("there is no server")),
      refuseConnections: () => Promise.reject(new Error("there is no server")),
      deleteGroup: () => Promise.reject(new Error("there is no server")),
      slowConnections: () => Promise.reject(new Error("there is no server")),
      restartBroker: () => Promise.reject(new Error("there is no server")),
      async refuseDeadLetters() {
        const refused = new TransportError("ERR_BROKER", "dead letters are refused");
        for (const { faults } of adapters)
          faults.before = (operation) => (operation === "deadLetter" ? refused : undefined);
        return async () => {
          for (const { faults } of adapters) faults.before = undefined;
        };
      },
    },
    foreign: bareProducer(() => memory({ name })),
    close: () => database.close(),
  };
}
