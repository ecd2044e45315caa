/** Broker and store in one file, as users of the embedded default have them. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { sqlite } from "postrider/sqlite";
import type { Backend } from "postrider/testing";
import { addressOf, joinBackend } from "./joined.ts";
import { insist, openSqliteDatabase } from "../sqlite-database.ts";
import { bareProducer } from "./foreign.ts";

export async function createBackend(address?: string): Promise<Backend> {
  if (address !== undefined) return joinBackend(address, (path) => sqlite({ path }));
  const folder = await mkdtemp(join(tmpdir(), "postrider-sqlite-"));
  const path = join(folder, "bus.db");
  const database = await openSqliteDatabase(path);
  const change = async (sql: string): Promise<void> => {
    const other = new DatabaseSync(path);
    await insist(() => other.exec(sql));
    other.close();
  };
  return {
    address: addressOf({ url: path, path }),
    adapter: () => sqlite({ path }),
    database,
    faults: {
      /** Another connection keeps the write lock: nothing is answered, for nothing can be committed. */
      async holdReplies() {
        const holder = new DatabaseSync(path);
        await insist(() => holder.exec("BEGIN IMMEDIATE"));
        return async () => {
          holder.exec("ROLLBACK");
          holder.close();
        };
      },
      /** All leases run out, as if the process that holds them had stood still for too long. */
      async cutConnections() {
        await change("UPDATE postrider_deliveries SET at = 1 WHERE state = 3");
      },
      stallConnections: () => Promise.reject(new Error("there is no server")),
      refuseConnections: () => Promise.reject(new Error("there is no server")),
      deleteGroup: () => Promise.reject(new Error("there is no server")),
      slowConnections: () => Promise.reject(new Error("there is no server")),
      restartBroker: () => Promise.reject(new Error("there is no server")),
      async refuseDeadLetters() {
        await change(`CREATE TRIGGER refuse_dead_letters BEFORE INSERT ON postrider_dead
          BEGIN SELECT raise(ABORT, 'dead letters are refused'); END`);
        return () => change("DROP TRIGGER refuse_dead_letters");
      },
    },
    foreign: bareProducer(() => sqlite({ path })),
    async close() {
      await database.close();
      await rm(folder, { recursive: true });
    },
  };
}
