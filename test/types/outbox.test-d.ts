import type { DatabaseSync } from "node:sqlite";
import type { PGlite, Transaction as PgliteTransaction } from "@electric-sql/pglite";
import type Database from "better-sqlite3";
import type { NodePgDatabase } from "drizzle-orm/node-postgres";
import type { Knex } from "knex";
import type { ControlledTransaction, Kysely, Transaction } from "kysely";
import type { Client, Pool, PoolClient } from "pg";
import { type Bus, type Publisher, createBus } from "postrider";
import { memory } from "postrider/memory";
import { fromDrizzle, fromKnex, fromKysely, fromPrisma, fromTypeorm, postgres } from "postrider/postgres";
import { sqliteStore } from "postrider/sqlite";
import type { DataSource, EntityManager } from "typeorm";
import { describe, expectTypeOf, it } from "vitest";

/** As Prisma generates it; its client is not there before that. */
interface PrismaTransactionClient {
  $queryRawUnsafe<T = unknown>(query: string, ...values: unknown[]): Promise<T>;
  $transaction<T>(fn: (tx: PrismaTransactionClient) => Promise<T>): Promise<T>;
}
interface PrismaClient extends PrismaTransactionClient {
  $connect(): Promise<void>;
}

const bus = createBus({ adapter: memory(), store: postgres({ url: "postgres://localhost/app" }) });
declare const pool: Pool;
declare const pglite: PGlite;

describe("bus.outbox on PostgreSQL", () => {
  it("takes a client of pg and a transaction of PGlite", () => {
    expectTypeOf(bus.outbox({} as Client)).toEqualTypeOf<Publisher>();
    void bus.outbox({} as PoolClient);
    void bus.outbox({} as PgliteTransaction);
    void bus.transaction((tx) => bus.outbox(tx).publishAll({} as never, []));
  });

  it("takes the transactions of ORMs", () => {
    void bus.outbox(fromKysely({} as Transaction<{ orders: { id: string } }>));
    void bus.outbox(fromKysely({} as ControlledTransaction<{ orders: { id: string } }, ["savepoint"]>));
    void bus.outbox(fromDrizzle({} as Parameters<Parameters<NodePgDatabase["transaction"]>[0]>[0]));
    void bus.outbox(fromKnex({} as Knex.Transaction));
    void bus.outbox(fromPrisma({} as PrismaTransactionClient));
    void bus.outbox(fromTypeorm({} as EntityManager));
  });

  it("does not compile with what is no transaction", () => {
    // @ts-expect-error a pool has many connections
    void bus.outbox(pool);
    // @ts-expect-error the database itself
    void bus.outbox(pglite);
    // @ts-expect-error a transaction of an ORM goes through its own function
    void bus.outbox({} as Transaction<unknown>);
    // @ts-expect-error a handle of another store
    void bus.outbox({} as DatabaseSync);
    // @ts-expect-error the database itself
    void fromKysely({} as Kysely<unknown>);
    // @ts-expect-error the database itself
    void fromDrizzle({} as NodePgDatabase);
    // @ts-expect-error knex itself
    void fromKnex({} as Knex);
    // @ts-expect-error the client itself
    void fromPrisma({} as PrismaClient);
    // @ts-expect-error the source of managers
    void fromTypeorm({} as DataSource);
    // @ts-expect-error a client of pg needs no function
    void fromKysely({} as Client);
  });

  it("makes a store of a PGlite, and of nothing else that it could be taken for", () => {
    void postgres({ pglite });
    // @ts-expect-error that one goes under "pool"
    void postgres({ pglite: pool });
  });
});

describe("bus.outbox on SQLite", () => {
  const embedded: Bus<DatabaseSync, DatabaseSync> = createBus({
    adapter: memory(),
    store: sqliteStore({ path: "app.db" }),
  });

  it("takes the built-in driver's handle, and none of another SQLite", () => {
    void embedded.outbox({} as DatabaseSync);
    // @ts-expect-error two SQLite in one process lose data
    void embedded.outbox({} as Database.Database);
  });
});
