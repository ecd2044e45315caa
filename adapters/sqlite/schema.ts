/**
 * The tables, by part and version. They live beside the user's own, so all are called `postrider_…`, and their version is in
 * a table of ours: `user_version` and `application_id` of the file are the user's. All times are wall-clock milliseconds
 * of the runtime: the processes share a host, its clock is the only one they have in common, and it survives a restart,
 * which a monotonic clock does not. When it jumps, holders extend their leases at once (`onClockJump`); what is handed
 * over early all the same is a redelivery like any other, and its first holder settles in vain (`epoch`).
 */
import { StoreError } from "../../src/spi.ts";
import type { Sql } from "./sql.ts";

export interface Part {
  readonly name: string;
  /** The version this code knows: the last of its steps. */
  readonly version: number;
  /** Statements that lead from one version to the next: `steps[0]` makes version 1. */
  readonly steps: readonly (readonly string[])[];
}

/**
 * State of a delivery: `0` ready, `1` ready but behind an earlier one of its key, `2` not due before `at`, `3` handed over
 * and leased until `at`. The first of a key is never in state 1; state and `at` lead the index a claim walks.
 */
export const state = { ready: 0, behind: 1, delayed: 2, leased: 3 } as const;

export const brokerPart: Part = {
  name: "broker",
  version: 2,
  steps: [
    [
      `CREATE TABLE postrider_topics (
        id   INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE
      ) STRICT`,
      `CREATE TABLE postrider_groups (
        id       INTEGER PRIMARY KEY AUTOINCREMENT,
        topic_id INTEGER NOT NULL,
        name     TEXT NOT NULL,
        UNIQUE (topic_id, name)
      ) STRICT`,
      // AUTOINCREMENT: ids are the order, and what a late settle names must never be a younger message.
      `CREATE TABLE postrider_messages (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        topic_id   INTEGER NOT NULL,
        key        TEXT,
        attributes TEXT NOT NULL,
        headers    TEXT NOT NULL,
        body       BLOB,
        due_at     INTEGER NOT NULL,
        retained   INTEGER NOT NULL
      ) STRICT`,
      `CREATE INDEX postrider_messages_retained ON postrider_messages (topic_id) WHERE retained = 1`,
      `CREATE TABLE postrider_deliveries (
        group_id     INTEGER NOT NULL,
        message_id   INTEGER NOT NULL,
        key          TEXT,
        state        INTEGER NOT NULL,
        at           INTEGER NOT NULL,
        epoch        INTEGER NOT NULL DEFAULT 0,
        redeliveries INTEGER NOT NULL DEFAULT 0,
        headers      TEXT,
        PRIMARY KEY (group_id, message_id)
      ) STRICT, WITHOUT ROWID`,
      `CREATE INDEX postrider_deliveries_next ON postrider_deliveries (group_id, state, at, message_id)`,
      `CREATE INDEX postrider_deliveries_key ON postrider_deliveries (group_id, key, message_id) WHERE key IS NOT NULL`,
      `CREATE TABLE postrider_dead (
        id          INTEGER PRIMARY KEY AUTOINCREMENT,
        group_id    INTEGER NOT NULL,
        message_key TEXT NOT NULL,
        message_id  INTEGER NOT NULL,
        headers     TEXT NOT NULL,
        UNIQUE (group_id, message_key)
      ) STRICT`,
      `CREATE INDEX postrider_dead_message ON postrider_dead (message_id)`,
      // Rowids grow with time, so the oldest are found without an index of their own.
      `CREATE TABLE postrider_published (
        id       INTEGER PRIMARY KEY,
        topic_id INTEGER NOT NULL,
        key      TEXT NOT NULL,
        until    INTEGER NOT NULL,
        UNIQUE (topic_id, key)
      ) STRICT`,
    ],
    // Cancelling finds a delayed message by its id.
    [
      `CREATE INDEX postrider_messages_delayed ON postrider_messages (topic_id, attributes ->> '$.id') WHERE due_at > 0`,
    ],
  ],
};

export const storePart: Part = {
  name: "store",
  version: 4,
  steps: [
    [
      // AUTOINCREMENT: a number that was seen is never given again, or the relay's low-water mark would hide its row.
      `CREATE TABLE postrider_outbox (
        seq        INTEGER PRIMARY KEY AUTOINCREMENT,
        topic      TEXT NOT NULL,
        partitions INTEGER NOT NULL,
        keyed      INTEGER NOT NULL,
        group_name TEXT,
        dead       INTEGER NOT NULL,
        key        TEXT,
        attributes TEXT NOT NULL,
        headers    TEXT NOT NULL,
        body       BLOB,
        durability TEXT NOT NULL,
        created_at INTEGER NOT NULL
      ) STRICT`,
      `CREATE TABLE postrider_outbox_parked (
        seq        INTEGER PRIMARY KEY,
        topic      TEXT NOT NULL,
        partitions INTEGER NOT NULL,
        keyed      INTEGER NOT NULL,
        group_name TEXT,
        dead       INTEGER NOT NULL,
        key        TEXT,
        attributes TEXT NOT NULL,
        headers    TEXT NOT NULL,
        body       BLOB,
        durability TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        error      TEXT NOT NULL,
        parked_at  INTEGER NOT NULL
      ) STRICT`,
      `CREATE TABLE postrider_relay (
        slot    INTEGER PRIMARY KEY CHECK (slot = 1),
        owner   TEXT NOT NULL,
        epoch   INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        clean   INTEGER NOT NULL
      ) STRICT`,
      `CREATE TABLE postrider_inbox (
        scope       TEXT NOT NULL,
        key         TEXT NOT NULL,
        redrives    INTEGER NOT NULL,
        outcome     TEXT,
        token       TEXT,
        lease_until INTEGER,
        at          INTEGER NOT NULL,
        PRIMARY KEY (scope, key)
      ) STRICT, WITHOUT ROWID`,
      `CREATE INDEX postrider_inbox_at ON postrider_inbox (at)`,
    ],
    ["ALTER TABLE postrider_inbox ADD COLUMN result TEXT"],
    [
      `CREATE TABLE postrider_prepared (
        n      INTEGER PRIMARY KEY AUTOINCREMENT,
        id     TEXT NOT NULL UNIQUE,
        topic  TEXT NOT NULL,
        entry  TEXT NOT NULL,
        checks INTEGER NOT NULL DEFAULT 0,
        due_at INTEGER
      ) STRICT`,
      "CREATE INDEX postrider_prepared_due ON postrider_prepared (due_at)",
    ],
    [
      "ALTER TABLE postrider_relay ADD COLUMN relay_order TEXT NOT NULL DEFAULT 'key'",
      "ALTER TABLE postrider_relay ADD COLUMN order_named INTEGER NOT NULL DEFAULT 0",
    ],
  ],
};

/** The part's version in this file; 0 when it is not there. Throws `ERR_SCHEMA` when it is newer than this code. */
export function versionOf(sql: Sql, part: Part): number {
  const table = sql.get("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'postrider_schema'");
  if (table === undefined) return 0;
  const row = sql.get<{ version: number }>("SELECT version FROM postrider_schema WHERE part = ?", part.name);
  const version = row?.version ?? 0;
  if (version <= part.version) return version;
  throw new StoreError(
    "ERR_SCHEMA",
    `the ${part.name} tables of this file are of version ${version}, this postrider knows ${part.version}: it was written by a newer one. Update postrider`,
  );
}

/** Creates or upgrades the part's tables in the open transaction; returns the version found. */
export function migrate(sql: Sql, part: Part): number {
  const found = versionOf(sql, part);
  for (const step of stepsOf(part).slice(found)) for (const statement of step) sql.db.exec(statement);
  return found;
}

/** What makes each version out of the one before, with the note of it. */
export function stepsOf({ name, steps }: Part): readonly (readonly string[])[] {
  return steps.map((step, index) => [
    "CREATE TABLE IF NOT EXISTS postrider_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    ...step,
    `INSERT INTO postrider_schema (part, version) VALUES ('${name}', ${index + 1})
ON CONFLICT (part) DO UPDATE SET version = excluded.version`,
  ]);
}
