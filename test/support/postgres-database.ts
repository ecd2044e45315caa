/** A PostgreSQL database of its own on the private server, with a store and a table of effects. */
import { nodeRuntime } from "../../src/clock.ts";
import { postgres } from "postrider/postgres";
import type { TestDatabase } from "postrider/testing";
import { Client, Pool, type ClientBase, type PoolClient } from "pg";
import { broker } from "../../scripts/brokers/index.ts";

export interface PostgresTestDatabase extends TestDatabase {
  readonly url: string;
  /** For whatever else a test asks of the database. */
  readonly pool: Pool;
}

let databases = 0;

export interface PostgresDatabaseOptions {
  /** URL of a server. Default: the private one, started if it is not up. */
  readonly server?: string | undefined;
  /** Without the store's tables. */
  readonly bare?: boolean | undefined;
}

export async function openPostgresDatabase(
  options: PostgresDatabaseOptions = {},
): Promise<PostgresTestDatabase> {
  const server = broker("postgres");
  if (options.server === undefined) await server.up();
  const serverUrl = options.server ?? server.url;
  databases += 1;
  const name = `test_${process.pid}_${databases}_${nodeRuntime.newId().slice(-12)}`;
  await once(serverUrl, `CREATE DATABASE ${name}`);
  const url = Object.assign(new URL(serverUrl), { pathname: `/${name}` }).href;

  const open = new Set<PoolClient>();
  const pool = new Pool({ connectionString: url, max: 20 });
  // Connections end when the database is dropped, and when a test kills the server.
  pool.on("error", ignore);
  await pool.query("CREATE TABLE effects (n bigint GENERATED ALWAYS AS IDENTITY, id text NOT NULL)");
  if (options.bare !== true) {
    const store = postgres({ pool });
    await store.migrate();
    await store.close();
  }

  return {
    url,
    pool,
    store: () => Promise.resolve(postgres({ url })),
    async begin() {
      const client = await pool.connect();
      open.add(client);
      // It breaks when a test kills the server; whoever uses it then learns of it.
      client.on("error", ignore);
      await client.query("BEGIN");
      const end = (statement: string) => async (): Promise<void> => {
        open.delete(client);
        try {
          await client.query(statement);
          client.off("error", ignore);
          client.release();
        } catch (error) {
          client.release(true);
          throw error;
        }
      };
      return { handle: client, commit: end("COMMIT"), rollback: end("ROLLBACK") };
    },
    async addEffect(tx, id) {
      await (tx as ClientBase).query("INSERT INTO effects (id) VALUES ($1)", [id]);
    },
    async effects() {
      const { rows } = await pool.query<{ id: string }>("SELECT id FROM effects ORDER BY n");
      return rows.map(({ id }) => id);
    },
    async reset() {
      await pool.query("TRUNCATE effects");
    },
    async refuseInbox() {
      await pool.query("ALTER TABLE postrider.inbox RENAME TO inbox_away");
      return async () => void (await pool.query("ALTER TABLE postrider.inbox_away RENAME TO inbox"));
    },
    async close() {
      // What a failed test has left behind.
      for (const client of open) client.release(true);
      await pool.end();
      await once(serverUrl, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    },
  };
}

const ignore = (): void => undefined;

async function once(url: string, statement: string): Promise<void> {
  const client = new Client(url);
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
