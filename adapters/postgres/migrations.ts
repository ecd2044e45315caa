/** The tables, version by version. A migration is never changed once released; what old code can still use, it may keep using. */
import { type MigrationReport, StoreError, type TablesVersion } from "../../src/spi.ts";
import type { PostgresDatabase } from "./connection.ts";
import { isMissing } from "./errors.ts";
import type { Tables } from "./tables.ts";

interface Migration {
  readonly sql: (tables: Tables) => string;
  /** The oldest version of the tables' code that works with the result. */
  readonly oldestCode: number;
}

/** Columns that `outbox` and `outbox_parked` share. */
const entryColumns = `
  topic      text NOT NULL,
  key        text,
  body       text,
  encoding   text NOT NULL DEFAULT 'utf8',
  attributes text NOT NULL,
  headers    text NOT NULL,
  partitions integer NOT NULL,
  keyed      boolean NOT NULL,
  group_name text,
  dead       boolean NOT NULL DEFAULT false,
  durability text NOT NULL DEFAULT 'replicated',
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()`;

const migrations: readonly Migration[] = [
  {
    oldestCode: 1,
    // The outbox's only index is its order: each more would be paid by every transaction that sends. Rows live for
    // milliseconds, so vacuum goes by the number of dead rows, not by a share of the table.
    sql: ({ outbox, parked, lease, inbox }) => `
      CREATE TABLE ${outbox} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, ${entryColumns})
        WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
          autovacuum_vacuum_insert_scale_factor = 0, toast.autovacuum_vacuum_scale_factor = 0,
          toast.autovacuum_vacuum_threshold = 10000);
      CREATE TABLE ${parked} (id bigint PRIMARY KEY, ${entryColumns},
        error text NOT NULL, parked_at timestamptz NOT NULL DEFAULT clock_timestamp());
      CREATE TABLE ${lease} (slot text PRIMARY KEY, owner text, epoch bigint NOT NULL DEFAULT 0,
        expires timestamptz NOT NULL DEFAULT '-infinity', clean boolean NOT NULL DEFAULT true,
        low bigint NOT NULL DEFAULT 0);
      INSERT INTO ${lease} (slot) VALUES ('relay');
      CREATE TABLE ${inbox} (scope text NOT NULL, key text NOT NULL, state text NOT NULL,
        redrives integer NOT NULL DEFAULT 0, token text, lease_until timestamptz,
        at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (scope, key))
        WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
      CREATE INDEX ON ${inbox} (at);`,
  },
  { oldestCode: 1, sql: ({ inbox }) => `ALTER TABLE ${inbox} ADD COLUMN result text;` },
  {
    oldestCode: 1,
    sql: ({ prepared }) => `
      CREATE TABLE ${prepared} (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL UNIQUE,
        topic text NOT NULL, entry text NOT NULL, checks integer NOT NULL DEFAULT 0, due_at timestamptz);
      CREATE INDEX ON ${prepared} (due_at);`,
  },
  {
    // A relay of older code would send in an order that nobody has chosen.
    oldestCode: 4,
    sql: ({ lease }) => `ALTER TABLE ${lease} ADD COLUMN relay_order text NOT NULL DEFAULT 'key',
        ADD COLUMN order_named boolean NOT NULL DEFAULT false;`,
  },
];

/** The version this code makes. */
const currentVersion: number = migrations.length;

/** What makes one version out of the one before. `version`: the one it makes. */
function stepTo(version: number, tables: Tables): string {
  const { sql, oldestCode } = migrations[version - 1] as Migration;
  return `${sql(tables).replaceAll("\n      ", "\n").trim()}
UPDATE ${tables.meta} SET version = ${version}, oldest_code = ${oldestCode};`;
}

function metaOf({ meta }: Tables): string {
  return `CREATE TABLE IF NOT EXISTS ${meta} (singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton), version integer NOT NULL,
  oldest_code integer NOT NULL, database_id text NOT NULL DEFAULT gen_random_uuid()::text);
INSERT INTO ${meta} (version, oldest_code) VALUES (0, 0) ON CONFLICT DO NOTHING;`;
}

/** See `Store.migrations`. */
export function migrationTexts(tables: Tables): readonly string[] {
  const first = `CREATE SCHEMA IF NOT EXISTS "${tables.schema}";\n${metaOf(tables)}\n`;
  return migrations.map((_, index) => (index === 0 ? first : "") + stepTo(index + 1, tables));
}

/** Creates or upgrades the tables in one transaction. Two at once take turns; the second finds nothing to do. */
export function migrate(database: PostgresDatabase, tables: Tables): Promise<MigrationReport> {
  const { schema, meta } = tables;
  return database.transaction("migrating", async (client) => {
    await client.query(`SELECT pg_advisory_xact_lock(${tables.seed("migrate")})`);
    // IF NOT EXISTS asks for the right to create a schema even when there is one.
    const exists = await client.query("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", [schema]);
    if (exists.rowCount === 0) await client.query(`CREATE SCHEMA "${schema}"`);
    await client.query(metaOf(tables));
    const { rows } = await client.query<{ version: string }>(`SELECT version::text FROM ${meta}`);
    const from = Number(rows[0]?.version);
    for (let version = from + 1; version <= currentVersion; version += 1)
      await client.query(stepTo(version, tables));
    return { from, to: Math.max(from, currentVersion) };
  });
}

/** See `Store.version`; and the id of the database, when there are tables. */
export async function readVersion(
  database: PostgresDatabase,
  tables: Tables,
): Promise<TablesVersion & { readonly databaseId: string }> {
  const rows = await database
    .query("reading the version of the tables", {
      text: `SELECT version::text, oldest_code::text, database_id FROM ${tables.meta}`,
    })
    .catch((error: unknown) => {
      if (isMissing((error as Error).cause)) return [];
      throw error;
    });
  const [version, oldestCode, databaseId] = rows[0] ?? [];
  const have = Number(version ?? 0);
  if (Number(oldestCode ?? 0) <= currentVersion)
    return { have, known: currentVersion, databaseId: databaseId ?? "" };
  throw new StoreError(
    "ERR_SCHEMA",
    `the tables in ${whereOf(database, tables)} are of a newer postrider: have ${have}, this one knows ${currentVersion}. Upgrade the package`,
  );
}

/** Resolves with the id of the database when its tables are what this code needs; else rejects with `ERR_SCHEMA`. */
export async function checkVersion(database: PostgresDatabase, tables: Tables): Promise<string> {
  const { have, known, databaseId } = await readVersion(database, tables);
  if (have >= known) return databaseId;
  throw new StoreError(
    "ERR_SCHEMA",
    `the tables in ${whereOf(database, tables)} are missing or old: have ${have}, need ${known}. Run bus.migrate() (or \`postrider migrate up\`) first`,
  );
}

function whereOf(database: PostgresDatabase, tables: Tables): string {
  return `schema "${tables.schema}" of ${database.name}`;
}
