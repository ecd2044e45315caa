/** Messages that wait for their sender's decision. */
import type { DatabaseSync } from "node:sqlite";
import { type PreparedStore, type UndecidedRow, restored, storable } from "../../src/spi.ts";
import { storeError } from "./errors.ts";
import type { SqliteFile } from "./file.ts";
import { sqlOn } from "./sql.ts";

const columns = "id, topic, entry, checks, due_at IS NULL AS parked";

interface Row {
  readonly id: string;
  readonly topic: string;
  readonly entry: string;
  readonly checks: number;
  readonly parked: number;
}

export interface PreparedContext {
  readonly file: () => SqliteFile;
  readonly path: string;
}

export function createPreparedStore({ file, path }: PreparedContext): PreparedStore<DatabaseSync> {
  const now = (): number => file().runtime.now();
  const isDue = "topic IN (SELECT value FROM json_each(?)) AND due_at <= ?";

  return {
    async add({ id, topic, entry }, dueMs) {
      await file().write((sql) =>
        sql.run(
          "INSERT INTO postrider_prepared (id, topic, entry, due_at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
          storable(id),
          topic,
          entry,
          Math.ceil(now() + dueMs),
        ),
      );
    },

    async take(tx, id) {
      try {
        const sql = sqlOn(tx);
        const row = sql.get<Row>("SELECT entry FROM postrider_prepared WHERE id = ?", storable(id));
        if (row !== undefined) sql.run("DELETE FROM postrider_prepared WHERE id = ?", storable(id));
        return row?.entry;
      } catch (error) {
        throw storeError("taking a prepared message", path, error);
      }
    },

    async claim(topics, againMs, limit) {
      const wanted = JSON.stringify(topics);
      const due = await file().read((sql) =>
        sql.get(`SELECT 1 FROM postrider_prepared WHERE ${isDue}`, wanted, now()),
      );
      // A write is a flush to the disk, and mostly there is nothing.
      if (due === undefined) return [];
      const rows = await file().write((sql) =>
        sql.all<Row>(
          `UPDATE postrider_prepared SET checks = checks + 1, due_at = ? WHERE n IN
             (SELECT n FROM postrider_prepared WHERE ${isDue} ORDER BY due_at LIMIT ?) RETURNING ${columns}`,
          Math.ceil(now() + againMs),
          wanted,
          now(),
          limit,
        ),
      );
      return rows.map(rowOf);
    },

    async park(id, checks) {
      const parked = await file().write((sql) =>
        sql.run(
          "UPDATE postrider_prepared SET due_at = NULL WHERE id = ? AND checks = ?",
          storable(id),
          checks,
        ),
      );
      return parked === 1;
    },

    async list(topic, limit) {
      const rows = await file().read((sql) =>
        sql.all<Row>(
          `SELECT ${columns} FROM postrider_prepared WHERE topic = ? ORDER BY n LIMIT ?`,
          topic,
          limit,
        ),
      );
      return rows.map(rowOf);
    },

    resume: (topic, ids) =>
      file().write((sql) =>
        sql.run(
          `UPDATE postrider_prepared SET checks = 0, due_at = ?1
           WHERE topic = ?2 AND due_at IS NULL AND (?3 IS NULL OR id IN (SELECT value FROM json_each(?3)))`,
          now(),
          topic,
          ids === undefined ? null : JSON.stringify(ids.map(storable)),
        ),
      ),
  };
}

function rowOf({ id, topic, entry, checks, parked }: Row): UndecidedRow {
  return { id: restored(id), topic, entry, checks, parked: parked === 1 };
}
