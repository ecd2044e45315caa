/** The ORMs themselves, on one database, in the few words that tests of their transactions need. */
import { execFile } from "node:child_process";
import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { PrismaPg } from "@prisma/adapter-pg";
import { sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import createKnex from "knex";
import { CompiledQuery, Kysely, PostgresDialect } from "kysely";
import { Pool } from "pg";
import {
  type PostgresHandle,
  fromDrizzle,
  fromKnex,
  fromKysely,
  fromPrisma,
  fromTypeorm,
} from "postrider/postgres";
import { DataSource } from "typeorm";

/** One ORM on one database. `Tx` is its own transaction. */
export interface Orm<Tx = unknown> {
  transaction<T>(fn: (tx: Tx) => Promise<T>): Promise<T>;
  handle(tx: Tx): PostgresHandle;
  run(tx: Tx, statement: string): Promise<unknown>;
  /** What is taken for a transaction by mistake. */
  readonly mistaken: Tx;
  close(): Promise<void>;
}

/** One connection, so that whoever begins a transaction after another gets its connection. */
const max = 1;

/** `connections` for those tests that need two at once. */
type Open = (url: string, connections?: number) => Promise<Orm>;

export const orms: Readonly<Record<string, Open>> = {
  async kysely(url, connections = max) {
    const db = new Kysely<unknown>({
      dialect: new PostgresDialect({ pool: new Pool({ connectionString: url, max: connections }) }),
    });
    return {
      transaction: (fn) => db.transaction().execute(fn),
      handle: fromKysely,
      run: (tx, statement) => (tx as typeof db).executeQuery(CompiledQuery.raw(statement)),
      mistaken: db,
      close: () => db.destroy(),
    };
  },

  async "kysely, controlled"(url, connections = max) {
    const db = new Kysely<unknown>({
      dialect: new PostgresDialect({ pool: new Pool({ connectionString: url, max: connections }) }),
    });
    return {
      async transaction(fn) {
        const trx = await db.startTransaction().execute();
        try {
          const result = await fn(trx);
          await trx.commit().execute();
          return result;
        } catch (error) {
          await trx.rollback().execute();
          throw error;
        }
      },
      handle: fromKysely,
      run: (tx, statement) => (tx as typeof db).executeQuery(CompiledQuery.raw(statement)),
      mistaken: db,
      close: () => db.destroy(),
    };
  },

  async drizzle(url, connections = max) {
    const pool = new Pool({ connectionString: url, max: connections });
    const db = drizzle({ client: pool });
    return {
      transaction: (fn) => db.transaction(fn),
      handle: fromDrizzle,
      run: (tx, statement) => (tx as typeof db).execute(sql.raw(statement)),
      mistaken: db,
      close: () => pool.end(),
    };
  },

  async knex(url, connections = max) {
    const knex = createKnex({ client: "pg", connection: url, pool: { min: 0, max: connections } });
    return {
      transaction: (fn) => knex.transaction(fn),
      handle: fromKnex,
      run: async (tx, statement) => (tx as typeof knex).raw(statement),
      mistaken: knex,
      close: () => knex.destroy(),
    };
  },

  async prisma(url, connections = max) {
    const { PrismaClient } = await (prismaClient ??= generatePrismaClient());
    const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: url, max: connections }) });
    return {
      transaction: (fn) => prisma.$transaction(fn),
      handle: fromPrisma,
      run: async (tx, statement) => (tx as PrismaClient).$executeRawUnsafe(statement),
      mistaken: prisma,
      close: () => prisma.$disconnect(),
    };
  },

  async typeorm(url, connections = max) {
    const source = await new DataSource({ type: "postgres", url, poolSize: connections }).initialize();
    return {
      transaction: (fn) => source.transaction(fn),
      handle: fromTypeorm,
      run: (tx, statement) => (tx as DataSource["manager"]).query(statement),
      mistaken: source.manager,
      close: () => source.destroy(),
    };
  },
};

interface PrismaClient {
  $transaction<T>(fn: (tx: PrismaClient) => Promise<T>): Promise<T>;
  $executeRawUnsafe(statement: string): PromiseLike<number>;
  $disconnect(): Promise<void>;
}

interface PrismaModule {
  readonly folder: string;
  readonly PrismaClient: new (options: { readonly adapter: PrismaPg }) => PrismaClient;
}

let prismaClient: Promise<PrismaModule> | undefined;

export async function removePrismaClient(): Promise<void> {
  const { folder } = (await prismaClient) ?? {};
  if (folder !== undefined) await rm(folder, { recursive: true });
}

/** A client of Prisma is code that it generates. */
async function generatePrismaClient(): Promise<PrismaModule> {
  const folder = await mkdtemp(join(tmpdir(), "postrider-prisma-"));
  const schema = join(folder, "schema.prisma");
  await symlink(resolve("node_modules"), join(folder, "node_modules"));
  await writeFile(join(folder, "package.json"), '{ "type": "module" }');
  await writeFile(
    schema,
    `generator client {
      provider = "prisma-client"
      output   = "client"
    }
    datasource db {
      provider = "postgresql"
    }
    model Effect {
      n  BigInt @id @default(autoincrement())
      id String
      @@map("effects")
    }`,
  );
  const cli = createRequire(import.meta.url).resolve("prisma/build/index.js");
  await promisify(execFile)(process.execPath, [cli, "generate", "--schema", schema], {
    // It takes no engine to generate, but one that is not named is downloaded.
    env: { ...process.env, PRISMA_SCHEMA_ENGINE_BINARY: process.execPath, CHECKPOINT_DISABLE: "1" },
  });
  const { PrismaClient } = await import(join(folder, "client/client.ts"));
  return { PrismaClient, folder };
}
