/** One database for the tests of a file, empty at the start of each test. */
import { type Connection, type ConnectionOptions, createConnection } from "mysql2/promise";
import { type MysqlHandle, type MysqlOptions, type MysqlTransaction, mysql } from "postrider/mysql";
import { afterAll, beforeAll, beforeEach, onTestFinished } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import type { Store, StoreContext } from "../../src/store.ts";
import { type MysqlTestDatabase, openMysqlDatabase } from "../support/mysql-database.ts";

export const context: StoreContext = { runtime: nodeRuntime, emit: () => undefined };

export interface Setup {
  readonly database: MysqlTestDatabase;
  /** A connected store; closed after the test. */
  open(options?: MysqlOptions): Promise<Store<MysqlTransaction, MysqlHandle>>;
  /** A connection of its own, and what is first said on it. */
  client(options?: ConnectionOptions, ...statements: readonly string[]): Promise<Connection>;
  /** Ids of what is in the outbox. */
  outbox(): Promise<readonly string[]>;
}

/** Registers the hooks. Nothing of the result may be used outside of tests and hooks. */
export function setupDatabase(): Setup {
  let database: MysqlTestDatabase;
  beforeAll(async () => {
    database = await openMysqlDatabase();
  });
  afterAll(() => database.close());
  beforeEach(async () => {
    await database.reset();
    for (const table of ["outbox", "inbox"]) await database.pool.query(`DELETE FROM postrider_${table}`);
  });
  return {
    get database() {
      return database;
    },
    async open(options = { url: database.url }) {
      const store = mysql(options);
      onTestFinished(() => store.close());
      await store.connect(context);
      return store;
    },
    async client(options = {}, ...statements) {
      const one = await createConnection({ uri: database.url, ...options });
      one.on("error", () => undefined);
      onTestFinished(() => one.destroy());
      for (const statement of statements) await one.query(statement);
      return one;
    },
    async outbox() {
      const [rows] = await database.pool.query("SELECT body FROM postrider_outbox ORDER BY id");
      return (rows as { readonly body: Buffer }[]).map(({ body }) => JSON.parse(body.toString()) as string);
    },
  };
}

/** What a `StoreError` of code `ERR_TX` looks like. */
export const txError = (message: RegExp): object => ({
  name: "StoreError",
  code: "ERR_TX",
  retryable: false,
  message,
});
