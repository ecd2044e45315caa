/** Messages that wait for their sender's decision. */
import type { PoolConnection } from "mysql2/promise";
import type { PreparedStore, UndecidedRow } from "../../src/spi.ts";
import type { MysqlDatabase } from "./connection.ts";
import { isLocked, toStoreError } from "./errors.ts";
import { handleOf } from "./handle.ts";
import { fromNow } from "./lease.ts";
import { noWait } from "./no-wait.ts";
import type { Row } from "./query.ts";
import { sql } from "./sql.ts";

/** Bytes where the session could change the character set. */
const columns = sql`n, CAST(id AS BINARY), topic, CAST(entry AS BINARY), checks, due_at IS NULL`;

export function createPreparedStore(database: MysqlDatabase): PreparedStore<PoolConnection> {
  return {
    async add({ id, topic, entry }, dueMs) {
      await database.query(
        "preparing a message",
        sql`INSERT INTO ${database.tables.prepared} (id, topic, entry, checks, due_at)
          VALUES (${JSON.stringify(id)}, ${topic}, ${entry}, 0, ${fromNow(dueMs)}) ON DUPLICATE KEY UPDATE n = n`,
      );
    },

    async take(tx, id) {
      const { run } = handleOf(tx);
      const { prepared } = database.tables;
      try {
        const { rows } = await run(
          sql`SELECT CAST(entry AS BINARY) FROM ${prepared} WHERE id = ${JSON.stringify(id)} FOR UPDATE`,
        );
        if (rows[0] === undefined) return undefined;
        await run(sql`DELETE FROM ${prepared} WHERE id = ${JSON.stringify(id)}`);
        return String(rows[0][0]);
      } catch (error) {
        throw toStoreError("taking a prepared message", error);
      }
    },

    claim: (topics, againMs, limit) =>
      database.session("looking for prepared messages", async (run) => {
        const { tables, server } = database;
        const { rows } = await run(sql`SELECT ${columns} FROM ${tables.prepared}
          WHERE topic IN (${topics}) AND due_at <= UTC_TIMESTAMP(6) ORDER BY due_at LIMIT ${limit}`);
        const claimed: UndecidedRow[] = [];
        for (const cells of rows) {
          const row = { ...rowOf(cells), checks: Number(cells[4]) + 1 };
          // Of two who have seen it, the second finds another count. One that is being decided is not waited for; by any
          // condition on `due_at` the server would look into an index whose entries others have locked.
          const { affected } = await noWait(
            server,
            run,
            sql`UPDATE ${tables.prepared} SET checks = ${row.checks}, due_at = ${fromNow(againMs)}
              WHERE n = ${Number(cells[0])} AND checks = ${row.checks - 1}`,
          ).catch((error: unknown) => {
            if (isLocked(error)) return { affected: 0 };
            throw error;
          });
          if (affected === 1) claimed.push(row);
        }
        return claimed;
      }),

    async park(id, checks) {
      const { affected } = await database.query(
        "parking a prepared message",
        sql`UPDATE ${database.tables.prepared} SET due_at = NULL WHERE id = ${JSON.stringify(id)} AND checks = ${checks}
          AND due_at IS NOT NULL`,
      );
      return affected === 1;
    },

    async list(topic, limit) {
      const { rows } = await database.query(
        "listing prepared messages",
        sql`SELECT ${columns} FROM ${database.tables.prepared} WHERE topic = ${topic} ORDER BY n LIMIT ${limit}`,
      );
      return rows.map(rowOf);
    },

    async resume(topic, ids) {
      const these = ids === undefined ? sql`` : sql`AND id IN (${ids.map((id) => JSON.stringify(id))})`;
      const { affected } = await database.query(
        "resuming prepared messages",
        sql`UPDATE ${database.tables.prepared} SET checks = 0, due_at = UTC_TIMESTAMP(6)
          WHERE topic = ${topic} AND due_at IS NULL ${these}`,
      );
      return affected;
    },
  };
}

function rowOf([, id, topic, entry, checks, parked]: Row): UndecidedRow {
  return {
    id: JSON.parse(String(id)) as string,
    topic: String(topic),
    entry: String(entry),
    checks: Number(checks),
    parked: Number(parked) === 1,
  };
}
