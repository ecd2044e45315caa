import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type Store, StoreError } from "postrider";
import { sqliteStore } from "postrider/sqlite";
import { onTestFinished } from "vitest";

type SqliteStore = Store<DatabaseSync, DatabaseSync>;

export interface TestStore {
  readonly path: string;
  /** A real store on a file of its own, with faults in front of it. */
  readonly store: SqliteStore;
  /** Another one on the same file. */
  another(): SqliteStore;
  readonly faults: StoreFaults;
  /** Rows of one of the file's tables. */
  rows(sql: string): unknown[];
}

interface StoreFaults {
  /** Called before an operation, by its name such as `"inbox.claim"`. An error makes it fail with no effect; a promise holds it. */
  before?: ((operation: string) => Error | undefined | Promise<Error | undefined>) | undefined;
  /** Called after it took effect. An error means that its answer was lost. */
  after?: ((operation: string) => Error | undefined | Promise<Error | undefined>) | undefined;
}

export const storeDown = (): StoreError => new StoreError("ERR_STORE", "the database is down");

/** The file is removed after the test. */
export async function openStore(): Promise<TestStore> {
  const folder = await mkdtemp(join(tmpdir(), "postrider-unit-"));
  const path = join(folder, "test.db");
  const faults: StoreFaults = {};
  const reader = new DatabaseSync(path);
  reader.exec("PRAGMA journal_mode = WAL; CREATE TABLE effects (id TEXT NOT NULL)");
  onTestFinished(async () => {
    reader.close();
    await rm(folder, { recursive: true });
  });
  return {
    path,
    store: withFaults(sqliteStore({ path }), faults),
    another: () => sqliteStore({ path }),
    faults,
    // Rows of node:sqlite have no prototype; a test compares them with plain objects.
    rows: (sql) => structuredClone(reader.prepare(sql).all()),
  };
}

/** The same store, whose operations fail or hang when they are told to. */
function withFaults(store: SqliteStore, faults: StoreFaults): SqliteStore {
  const guard = <T extends object>(part: T, prefix: string): T =>
    new Proxy(part, {
      get(target, name, receiver) {
        const value: unknown = Reflect.get(target, name, receiver);
        if (typeof value !== "function" || name === "health" || name === "close") return value;
        return async (...given: unknown[]) => {
          const operation = `${prefix}${String(name)}`;
          const refused = await faults.before?.(operation);
          if (refused !== undefined) throw refused;
          const result: unknown = await Reflect.apply(value, target, given);
          const lost = await faults.after?.(operation);
          if (lost !== undefined) throw lost;
          return result;
        };
      },
    });
  const parts = {
    outbox: guard(store.outbox, "outbox."),
    inbox: guard(store.inbox, "inbox."),
    prepared: guard(store.prepared, "prepared."),
  };
  return Object.assign(Object.create(guard(store, "")) as SqliteStore, parts);
}
