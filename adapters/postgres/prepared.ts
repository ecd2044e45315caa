/** Messages that wait for their sender's decision. */
import type { PoolClient } from "pg";
import { type PreparedStore, type UndecidedRow, restored, storable } from "../../src/spi.ts";
import type { PostgresDatabase, Row } from "./connection.ts";
import { toStoreError } from "./errors.ts";
import { handleOf } from "./handle.ts";
import type { Tables } from "./tables.ts";

const columns = "id, topic, entry, checks::text, (due_at IS NULL)::text";

export function createPreparedStore(database: PostgresDatabase, tables: Tables): PreparedStore<PoolClient> {
  const { prepared } = tables;
  const fromNow = (ms: string): string => `clock_timestamp() + ${ms} * interval '1 millisecond'`;

  return {
    async add({ id, topic, entry }, dueMs) {
      await database.query("preparing a message", {
        text: `INSERT INTO ${prepared} (id, topic, entry, due_at) VALUES ($1, $2, $3, ${fromNow("$4")})
          ON CONFLICT (id) DO NOTHING`,
        values: [storable(id), topic, entry, dueMs],
      });
    },

    async take(tx, id) {
      try {
        const text = `DELETE FROM ${prepared} WHERE id = $1 RETURNING entry`;
        const { rows } = await handleOf(tx).run({ text, values: [storable(id)] });
        return rows[0]?.[0] ?? undefined;
      } catch (error) {
        throw toStoreError("taking a prepared message", error);
      }
    },

    async claim(topics, againMs, limit) {
      const rows = await database.query("looking for prepared messages", {
        text: `WITH d AS MATERIALIZED (SELECT n FROM ${prepared} WHERE topic = ANY($1::text[]) AND due_at <= clock_timestamp()
            ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
          UPDATE ${prepared} SET checks = checks + 1, due_at = ${fromNow("$2")} WHERE n IN (SELECT n FROM d)
          RETURNING ${columns}`,
        values: [topics, againMs, limit],
      });
      return rows.map(rowOf);
    },

    async park(id, checks) {
      const rows = await database.query("parking a prepared message", {
        text: `UPDATE ${prepared} SET due_at = NULL WHERE id = $1 AND checks = $2 RETURNING n::text`,
        values: [storable(id), checks],
      });
      return rows.length === 1;
    },

    async list(topic, limit) {
      const text = `SELECT ${columns} FROM ${prepared} WHERE topic = $1 ORDER BY n LIMIT $2`;
      return (await database.query("listing prepared messages", { text, values: [topic, limit] })).map(rowOf);
    },

    async resume(topic, ids) {
      const rows = await database.query("resuming prepared messages", {
        text: `UPDATE ${prepared} SET checks = 0, due_at = clock_timestamp()
          WHERE topic = $1 AND due_at IS NULL AND ($2::text[] IS NULL OR id = ANY($2)) RETURNING n::text`,
        values: [topic, ids?.map(storable) ?? null],
      });
      return rows.length;
    },
  };
}

function rowOf([id, topic, entry, checks, parked]: Row): UndecidedRow {
  return {
    id: restored(id ?? ""),
    topic: topic ?? "",
    entry: entry ?? "",
    checks: Number(checks),
    parked: parked === "true",
  };
}
