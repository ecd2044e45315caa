/** The SQLite store by itself, each scenario on a file of its own. */
import { DatabaseSync } from "node:sqlite";
import type { StoreBackend } from "postrider/testing";
import { insist, openSqliteDatabase } from "../support/sqlite-database.ts";

export async function openStoreBackend(): Promise<StoreBackend> {
  return {
    server: false,
    async open() {
      const database = await openSqliteDatabase();
      return {
        ...database,
        async fail(tx) {
          (tx as DatabaseSync).exec("SELECT * FROM no_such_table");
        },
        execute: (sql) =>
          insist(() => {
            const db = new DatabaseSync(database.path);
            try {
              db.exec(sql);
            } finally {
              db.close();
            }
          }),
      };
    },
    close: () => Promise.resolve(),
  };
}
