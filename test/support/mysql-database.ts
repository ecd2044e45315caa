/** A database of its own on the private MariaDB, or the server given, with a store and a table of effects. */
import { type Connection, type Pool, createConnection, createPool } from "mysql2/promise";
import { mysql } from "postrider/mysql";
import type { TestDatabase } from "postrider/testing";
import { broker } from "../../scripts/brokers/index.ts";
import { nodeRuntime } from "../../src/clock.ts";

export interface MysqlTestDatabase extends TestDatabase {
  readonly url: string;
  /** For whatever else a test asks of the database. */
  readonly pool: Pool;
}

let databases = 0;

export interface MysqlDatabaseOptions {
  /** URL of a server. Default: the private one, started if it is not up. */
  readonly server?: string | undefined;
  /** Without the store's tables. */
  readonly bare?: boolean | undefined;
}

export async function openMysqlDatabase(options: MysqlDatabaseOptions = {}): Promise<MysqlTestDatabase> {
  const server = broker("mariadb");
  if (options.server === undefined) await server.up();
  const serverUrl = options.server ?? server.url;
  databases += 1;
  const name = `test_${process.pid}_${databases}_${nodeRuntime.newId().slice(-12)}`;
  await once(serverUrl, `CREATE DATABASE ${name}`);
  const url = Object.assign(new URL(serverUrl), { pathname: `/${name}` }).href;

  const open = new Set<Connection>();
  const pool = createPool({ uri: url, connectionLimit: 20 });
  await pool.query("CREATE TABLE effects (n BIGINT AUTO_INCREMENT PRIMARY KEY, id VARCHAR(200) NOT NULL)");
  if (options.bare !== true) {
    const store = mysql({ pool });
    await store.migrate();
    await store.close();
  }

  return {
    url,
    pool,
    store: () => Promise.resolve(mysql({ url })),
    async begin() {
      const connection = await pool.getConnection();
      open.add(connection);
      // It breaks when a test kills the server; whoever uses it then learns of it.
      connection.on("error", ignore);
      await connection.beginTransaction();
      const end = (how: "commit" | "rollback") => async (): Promise<void> => {
        open.delete(connection);
        try {
          await connection[how]();
          connection.off("error", ignore);
          connection.release();
        } catch (error) {
          connection.destroy();
          throw error;
        }
      };
      return { handle: connection, commit: end("commit"), rollback: end("rollback") };
    },
    async addEffect(tx, id) {
      await (tx as Connection).execute("INSERT INTO effects (id) VALUES (?)", [id]);
    },
    async effects() {
      const [rows] = await pool.query("SELECT id FROM effects ORDER BY n");
      return (rows as { readonly id: string }[]).map(({ id }) => id);
    },
    async reset() {
      await pool.query("TRUNCATE effects");
    },
    async refuseInbox() {
      await pool.query("RENAME TABLE postrider_inbox TO postrider_inbox_away");
      return async () => void (await pool.query("RENAME TABLE postrider_inbox_away TO postrider_inbox"));
    },
    async close() {
      // What a failed test has left behind.
      for (const connection of open) connection.destroy();
      await pool.end();
      await once(serverUrl, `DROP DATABASE IF EXISTS ${name}`);
    },
  };
}

const ignore = (): void => undefined;

async function once(url: string, statement: string): Promise<void> {
  const connection = await createConnection(url);
  try {
    await connection.query(statement);
  } finally {
    await connection.end();
  }
}
