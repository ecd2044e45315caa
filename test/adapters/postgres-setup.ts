/** One database for the tests of a file, empty at the start of each test. */
import { Client, type PoolClient } from "pg";
import { type PostgresHandle, type PostgresOptions, postgres } from "postrider/postgres";
import { afterAll, beforeAll, beforeEach, onTestFinished } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import type { Store, StoreContext } from "../../src/store.ts";
import { type PostgresTestDatabase, openPostgresDatabase } from "../support/postgres-database.ts";

export const context: StoreContext = { runtime: nodeRuntime, emit: () => undefined };

export interface Setup {
  readonly database: PostgresTestDatabase;
  /** A connected store; closed after the test. */
  open(options?: PostgresOptions): Promise<Store<PoolClient, PostgresHandle>>;
  /** A connection of its own. */
  client(url?: string): Promise<Client>;
  /** Ids of what is in the outbox. */
  outbox(): Promise<readonly string[]>;
}

/** Registers the hooks. Nothing of the result may be used outside of tests and hooks. */
export function setupDatabase(): Setup {
  let database: PostgresTestDatabase;
  beforeAll(async () => {
    database = await openPostgresDatabase();
  });
  afterAll(() => database.close());
  beforeEach(async () => {
    await database.reset();
    await database.pool.query("TRUNCATE postrider.outbox, postrider.inbox");
  });
  return {
    get database() {
      return database;
    },
    async open(options = { url: database.url }) {
      const store = postgres(options);
      onTestFinished(() => store.close());
      await store.connect(context);
      return store;
    },
    async client(url = database.url) {
      const one = new Client(url);
      one.on("error", () => undefined);
      onTestFinished(() => one.end());
      await one.connect();
      return one;
    },
    async outbox() {
      const { rows } = await database.pool.query<{ body: string }>(
        "SELECT body FROM postrider.outbox ORDER BY id",
      );
      return rows.map(({ body }) => JSON.parse(body) as string);
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
