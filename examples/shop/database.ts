/** The shop's own tables, on SQLite or PostgreSQL: the same statements on either, `?` for a parameter. */
import { randomBytes } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import type { Store } from "postrider";
import { postgres } from "postrider/postgres";
import { sqliteStore } from "postrider/sqlite";

type Value = string | number;
export type Row = Readonly<Record<string, Value>>;

export interface ShopDatabase {
  /** For `createBus({ store })`. */
  readonly store: Store;
  /** For `createBus({ prefix })`: a database that begins anew must not meet the messages of the one before. */
  readonly prefix: string;
  /** Runs a statement in an open transaction (`ctx.tx`); resolves with the number of rows it changed. */
  execute(tx: unknown, sql: string, ...parameters: Value[]): Promise<number>;
  /** Reads, outside of any transaction. */
  query(sql: string, ...parameters: Value[]): Promise<readonly Row[]>;
  close(): Promise<void>;
}

/** No unique key on invoices and shipments: what happened twice must show. */
const schema = [
  "create table if not exists orders (order_id text primary key, customer text not null, total integer not null)",
  "create table if not exists invoices (order_id text not null, amount integer not null)",
  "create table if not exists shipments (order_id text not null)",
  "create table if not exists mails (order_id text not null)",
  "create table if not exists shop (id integer primary key, prefix text not null)",
];

const findPrefix = "select prefix from shop";
const choosePrefix = `insert into shop (id, prefix) values (1, 'shop-${randomBytes(3).toString("hex")}.') on conflict do nothing`;

/** Whether it is a server's URL; otherwise it is the path of a SQLite file. */
export function isPostgres(url: string): boolean {
  const [scheme, path] = url.split("://");
  if (path === undefined) return false;
  if (scheme === "postgres" || scheme === "postgresql") return true;
  throw new Error(`unknown database scheme "${scheme}": give postgres://… or the path of a SQLite file`);
}

/** `name` keeps runs over different brokers apart on a server; `fresh` forgets earlier ones. */
export async function openDatabase(url: string, name: string, fresh: boolean): Promise<ShopDatabase> {
  try {
    return await (isPostgres(url) ? openPostgres(url, `shop_${name}`, fresh) : openSqlite(url, fresh));
  } catch (error) {
    throw new Error(`cannot open the shop's database: ${(error as Error).message}`, { cause: error });
  }
}

async function openSqlite(path: string, fresh: boolean): Promise<ShopDatabase> {
  if (fresh) for (const suffix of ["", "-wal", "-shm"]) rmSync(`${path}${suffix}`, { force: true });
  mkdirSync(dirname(path), { recursive: true });
  const db = new DatabaseSync(path, { timeout: 5_000 });
  db.exec("pragma journal_mode = wal; pragma synchronous = full;");
  for (const statement of [...schema, choosePrefix]) db.exec(statement);
  return {
    store: sqliteStore({ path }),
    prefix: (db.prepare(findPrefix).get() as { prefix: string }).prefix,
    execute: async (tx, sql, ...parameters) =>
      Number((tx as DatabaseSync).prepare(sql).run(...parameters).changes),
    query: async (sql, ...parameters) => db.prepare(sql).all(...parameters) as Row[],
    close: async () => db.close(),
  };
}

interface PgClient {
  query(sql: string, parameters: readonly Value[]): Promise<{ rows: Row[]; rowCount: number | null }>;
}

async function openPostgres(url: string, schemaName: string, fresh: boolean): Promise<ShopDatabase> {
  const { default: pg } = await import("pg");
  const pool = new pg.Pool({ connectionString: url, max: 20, options: `-c search_path=${schemaName}` });
  pool.on("error", () => undefined);
  const ownSchema = `${schemaName}_postrider`;
  if (fresh) await pool.query(`drop schema if exists ${schemaName}, ${ownSchema} cascade`);
  await pool.query(`create schema if not exists ${schemaName}`);
  for (const statement of [...schema, choosePrefix]) await pool.query(statement);
  const numbered = (sql: string): string => {
    let n = 0;
    return sql.replaceAll("?", () => `$${(n += 1)}`);
  };
  const store = postgres({ pool, schema: ownSchema });
  await store.migrate();
  return {
    store,
    prefix: (await pool.query<{ prefix: string }>(findPrefix)).rows[0]?.prefix ?? "",
    execute: async (tx, sql, ...parameters) =>
      (await (tx as PgClient).query(numbered(sql), parameters)).rowCount ?? 0,
    query: async (sql, ...parameters) => (await pool.query<Row>(numbered(sql), parameters)).rows,
    close: () => pool.end(),
  };
}
