/** The tables, version by version. A migration is never changed once released; what old code can still use, it may keep using. */
import { type MigrationReport, StoreError, type TablesVersion } from "../../src/spi.ts";
import type { MysqlDatabase } from "./connection.ts";
import { keyLocks } from "./emit.ts";
import { isColumnThere, isMissing } from "./errors.ts";
import { gateCount } from "./gates.ts";
import type { Run } from "./query.ts";
import { type Sql, joined, sql } from "./sql.ts";
import type { Tables } from "./tables.ts";

interface Migration {
  /** Each may be run again, because the server commits each by itself. */
  readonly statements: (tables: Tables) => readonly Sql[];
  /** The oldest version of the tables' code that works with the result. */
  readonly oldestCode: number;
}

/** Text that is compared is compared by its bytes; the default of the database may not even tell `a` from `A`. */
const tableOptions = sql`ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`;
const ascii = sql`CHARACTER SET ascii COLLATE ascii_bin`;

/** Columns that `outbox` and `outbox_parked` share. */
const entryColumns = sql`
  topic      VARCHAR(255) ${ascii} NOT NULL,
  \`key\`    LONGTEXT,
  body       LONGBLOB,
  attributes LONGTEXT NOT NULL,
  headers    LONGTEXT NOT NULL,
  partitions INT UNSIGNED NOT NULL,
  keyed      TINYINT NOT NULL,
  group_name VARCHAR(255) ${ascii},
  dead       TINYINT NOT NULL,
  durability VARCHAR(20) ${ascii} NOT NULL,
  created_at DATETIME(6) NOT NULL`;

/** 0 … `count` - 1, for a power of 16. */
function numbers(count: number): Sql {
  const digit = sql`(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
    UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9 UNION ALL SELECT 10
    UNION ALL SELECT 11 UNION ALL SELECT 12 UNION ALL SELECT 13 UNION ALL SELECT 14 UNION ALL SELECT 15)`;
  return sql`SELECT n FROM (SELECT a.d + 16 * b.d + 256 * c.d + 4096 * e.d AS n
    FROM ${digit} AS a CROSS JOIN ${digit} AS b CROSS JOIN ${digit} AS c CROSS JOIN ${digit} AS e) AS numbers
    WHERE n < ${count} ORDER BY n`;
}

const migrations: readonly Migration[] = [
  {
    oldestCode: 1,
    // The outbox's only index is its order: each more would be paid by every transaction that sends.
    statements: ({ outbox, parked, keys, gates, lease, inbox }) => [
      sql`CREATE TABLE IF NOT EXISTS ${outbox}
        (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, ${entryColumns}) ${tableOptions}`,
      sql`CREATE TABLE IF NOT EXISTS ${parked} (id BIGINT UNSIGNED PRIMARY KEY, ${entryColumns},
        error LONGTEXT NOT NULL, parked_at DATETIME(6) NOT NULL) ${tableOptions}`,
      sql`CREATE TABLE IF NOT EXISTS ${keys} (id INT PRIMARY KEY) ${tableOptions}`,
      sql`INSERT IGNORE INTO ${keys} (id) ${numbers(keyLocks)}`,
      sql`CREATE TABLE IF NOT EXISTS ${gates} (id INT PRIMARY KEY) ${tableOptions}`,
      sql`INSERT IGNORE INTO ${gates} (id) ${numbers(gateCount)}`,
      sql`CREATE TABLE IF NOT EXISTS ${lease} (id INT PRIMARY KEY, owner VARBINARY(255), epoch BIGINT UNSIGNED NOT NULL,
        expires DATETIME(6) NOT NULL, clean TINYINT NOT NULL, low BIGINT UNSIGNED NOT NULL) ${tableOptions}`,
      sql`INSERT IGNORE INTO ${lease} (id, epoch, expires, clean, low) VALUES (1, 0, '1000-01-01', 1, 0)`,
      sql`CREATE TABLE IF NOT EXISTS ${inbox} (scope VARBINARY(255) NOT NULL, \`key\` VARBINARY(600) NOT NULL,
        state VARCHAR(20) ${ascii} NOT NULL, redrives INT NOT NULL, token VARBINARY(255), lease_until DATETIME(6),
        at DATETIME(6) NOT NULL, PRIMARY KEY (scope, \`key\`), KEY (at)) ${tableOptions}`,
    ],
  },
  { oldestCode: 1, statements: ({ inbox }) => [sql`ALTER TABLE ${inbox} ADD COLUMN result LONGTEXT`] },
  {
    oldestCode: 1,
    statements: ({ prepared }) => [
      sql`CREATE TABLE IF NOT EXISTS ${prepared} (n BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
        id VARBINARY(1600) NOT NULL, topic VARCHAR(255) ${ascii} NOT NULL, entry LONGTEXT NOT NULL, checks INT NOT NULL,
        due_at DATETIME(6), UNIQUE KEY (id), KEY (due_at)) ${tableOptions}`,
    ],
  },
  {
    // A relay of older code would send in an order that nobody has chosen.
    oldestCode: 4,
    statements: ({ lease }) => [
      sql`ALTER TABLE ${lease} ADD COLUMN relay_order VARCHAR(20) ${ascii} NOT NULL DEFAULT 'key'`,
      sql`ALTER TABLE ${lease} ADD COLUMN order_named TINYINT NOT NULL DEFAULT 0`,
    ],
  },
];

/** The version this code makes. */
const currentVersion: number = migrations.length;

/** What makes one version out of the one before. `version`: the one it makes. */
function stepTo(version: number, tables: Tables): readonly Sql[] {
  const { statements, oldestCode } = migrations[version - 1] as Migration;
  const done = sql`UPDATE ${tables.meta} SET version = ${version}, oldest_code = ${oldestCode}`;
  return [...statements(tables), done];
}

function metaOf({ meta }: Tables): readonly Sql[] {
  return [
    sql`CREATE TABLE IF NOT EXISTS ${meta} (id INT PRIMARY KEY, version INT NOT NULL, oldest_code INT NOT NULL,
    database_id VARCHAR(36) ${ascii} NOT NULL) ${tableOptions}`,
    sql`INSERT IGNORE INTO ${meta} (id, version, oldest_code, database_id) VALUES (1, 0, 0, UUID())`,
  ];
}

/** See `Store.migrations`. */
export function migrationTexts(tables: Tables): readonly string[] {
  return migrations.map((_, index) => {
    const statements = [...(index === 0 ? metaOf(tables) : []), ...stepTo(index + 1, tables)];
    return `${joined(statements, ";\n").text.replaceAll(/\n {4,}/gu, "\n  ")};`;
  });
}

/**
 * Creates or upgrades the tables. Two at once take turns; the second finds nothing to do. The server commits every DDL
 * statement by itself: a migration that was cut off is run again as a whole.
 */
export async function migrate(database: MysqlDatabase): Promise<MigrationReport> {
  const { tables } = await database.identify();
  const lock = `postrider ${tables.name}`.slice(0, 64);
  return database.session("migrating", async (run) => {
    const { rows } = await run(sql`SELECT GET_LOCK(${lock}, 25)`);
    if (Number(rows[0]?.[0]) !== 1)
      throw new StoreError("ERR_STORE", `another process has been migrating ${tables.name} for 25 seconds`);
    try {
      return await migrateAlone(run, tables);
    } finally {
      // Of a connection that is closed after a failure, it goes by itself.
      await run(sql`DO RELEASE_LOCK(${lock})`).catch(() => undefined);
    }
  });
}

async function migrateAlone(run: Run, tables: Tables): Promise<MigrationReport> {
  for (const statement of metaOf(tables)) await run(statement);
  const { rows } = await run(sql`SELECT version FROM ${tables.meta}`);
  const from = Number(rows[0]?.[0]);
  for (let version = from + 1; version <= currentVersion; version += 1)
    for (const statement of stepTo(version, tables)) {
      await run(statement).catch((error: unknown) => {
        // Added by a migration that was cut off: there is no IF NOT EXISTS for columns on MySQL.
        if (!isColumnThere(error)) throw error;
      });
    }
  return { from, to: Math.max(from, currentVersion) };
}

/** See `Store.version`; and the id of the database, when there are tables. */
export async function readVersion(
  database: MysqlDatabase,
): Promise<TablesVersion & { readonly databaseId: string | undefined }> {
  const { name, meta } = database.tables;
  const { rows } = await database
    .query("reading the version of the tables", sql`SELECT version, oldest_code, database_id FROM ${meta}`)
    .catch((error: unknown) => {
      if (isMissing((error as Error).cause)) return { rows: [] };
      throw error;
    });
  const [version, oldestCode, databaseId] = rows[0] ?? [];
  const have = Number(version ?? 0);
  if (Number(oldestCode ?? 0) <= currentVersion)
    return {
      have,
      known: currentVersion,
      databaseId: databaseId === undefined ? undefined : String(databaseId),
    };
  throw new StoreError(
    "ERR_SCHEMA",
    `the tables ${name} are of a newer postrider: have ${have}, this one knows ${currentVersion}. Upgrade the package`,
  );
}

/** Resolves with the id of the database when its tables are what this code needs; else rejects with `ERR_SCHEMA`. */
export async function checkVersion(database: MysqlDatabase): Promise<string> {
  const { have, known, databaseId } = await readVersion(database);
  if (have >= known && databaseId !== undefined) return databaseId;
  const { name } = database.tables;
  const why =
    databaseId === undefined
      ? `there are no tables ${name}`
      : `the tables ${name} are old: have ${have}, need ${known}`;
  throw new StoreError("ERR_SCHEMA", `${why}. Run bus.migrate() (or \`postrider migrate up\`) first`);
}
