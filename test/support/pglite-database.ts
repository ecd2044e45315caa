/** A PGlite of its own, with a store and a table of effects. */
import { PGlite, type Transaction } from "@electric-sql/pglite";
import { postgres } from "postrider/postgres";
import type { ClientBase } from "pg";
import type { StoreDatabase } from "postrider/testing";

export interface PgliteTestDatabase extends StoreDatabase {
  readonly pglite: PGlite;
}

/** Kept for the next one who needs a database: making one takes seconds. */
const idle: PGlite[] = [];

export async function openPgliteDatabase(
  options: { readonly bare?: boolean } = {},
): Promise<PgliteTestDatabase> {
  const pglite = idle.pop() ?? (await PGlite.create());
  await pglite.exec("CREATE TABLE effects (n bigint GENERATED ALWAYS AS IDENTITY, id text NOT NULL)");
  if (options.bare !== true) {
    const store = postgres({ pglite });
    await store.migrate();
    await store.close();
  }
  return {
    pglite,
    store: () => Promise.resolve(postgres({ pglite })),
    async begin() {
      const [begun, end] = [Promise.withResolvers<Transaction>(), Promise.withResolvers<void>()];
      const ended = pglite.transaction((tx) => {
        begun.resolve(tx);
        return end.promise;
      });
      ended.catch(begun.reject);
      return {
        handle: await begun.promise,
        async commit() {
          end.resolve();
          await ended;
        },
        async rollback() {
          end.reject(new Error("rolled back"));
          await ended.catch(() => undefined);
        },
      };
    },
    async addEffect(tx, id) {
      await (tx as ClientBase & Transaction).query("INSERT INTO effects (id) VALUES ($1)", [id]);
    },
    async fail(tx) {
      await (tx as ClientBase & Transaction).query("SELECT 1 / 0");
    },
    async execute(sql) {
      await pglite.exec(sql);
    },
    async makeOld() {
      await pglite.query("UPDATE postrider.meta SET version = 0");
    },
    async effects() {
      const { rows } = await pglite.query<{ id: string }>("SELECT id FROM effects ORDER BY n");
      return rows.map(({ id }) => id);
    },
    async reset() {
      await pglite.query("TRUNCATE effects");
    },
    async refuseInbox() {
      await pglite.query("ALTER TABLE postrider.inbox RENAME TO inbox_away");
      return async () => void (await pglite.query("ALTER TABLE postrider.inbox_away RENAME TO inbox"));
    },
    async close() {
      await pglite.exec("DROP SCHEMA IF EXISTS postrider CASCADE; DROP TABLE effects");
      idle.push(pglite);
    },
  };
}

export async function closePglites(): Promise<void> {
  await Promise.all(idle.splice(0).map((pglite) => pglite.close()));
}
