/** The relay's side of the outbox. */
import type { OutboxEntry, OutboxStore } from "../../src/spi.ts";
import type { MysqlDatabase } from "./connection.ts";
import { createGates } from "./gates.ts";
import { createLease } from "./lease.ts";
import { entryColumns, readColumns, rowOf } from "./mapping.ts";
import { type Sql, sql } from "./sql.ts";

/** Up to so many rows are counted; beyond, the backlog is estimated. */
const countedBacklog = 10_000;

export function createOutboxStore(
  database: MysqlDatabase,
  append: (handle: unknown, entries: readonly OutboxEntry[]) => Promise<void>,
): OutboxStore {
  const gates = createGates(database);
  const held = (epoch: bigint): Sql =>
    sql`SELECT 1 FROM ${database.tables.lease} WHERE id = 1 AND epoch = ${epoch} AND owner IS NOT NULL`;
  let low = 0n;

  return {
    append,
    ...createLease(database, () => low),

    async fetch({ above, except = [], parkedTopics, limit }) {
      low = above;
      // Before the rows: what had ended by then, they have seen.
      const horizon = await gates.horizon();
      const others = parkedTopics.length === 0 ? sql`` : sql`AND topic NOT IN (${parkedTopics})`;
      const fresh = except.length === 0 ? sql`` : sql`AND id NOT IN (${except})`;
      const { rows } = await database.query(
        "fetching from the outbox",
        sql`SELECT ${readColumns} FROM ${database.tables.outbox} WHERE id > ${above} ${others} ${fresh} ORDER BY id LIMIT ${limit}`,
      );
      return { rows: rows.map(rowOf), horizon };
    },

    async remove(seqs, epoch) {
      const fenced = await database.session("removing from the outbox", async (run) => {
        const { affected } = await run(
          sql`DELETE FROM ${database.tables.outbox} WHERE id IN (${seqs}) AND EXISTS (${held(epoch)})`,
        );
        if (affected > 0) return false;
        return (await run(held(epoch))).rows.length === 0;
      });
      return { fenced, mark: gates.mark() };
    },

    // Copied, then removed: cut off in between it is parked again, and the copy is there already. In one transaction a
    // process that is stopped there would keep the row from the next relay.
    park: (row, epoch, error) =>
      database.session("parking an outbox row", async (run) => {
        const { outbox, parked } = database.tables;
        const ours = sql`id = ${row.seq} AND EXISTS (${held(epoch)})`;
        await run(sql`INSERT IGNORE INTO ${parked} (id, ${entryColumns}, created_at, error, parked_at)
          SELECT id, ${entryColumns}, created_at, ${error}, UTC_TIMESTAMP(6) FROM ${outbox} WHERE ${ours}`);
        await run(sql`DELETE FROM ${outbox} WHERE ${ours}`);
        return { fenced: (await run(held(epoch))).rows.length === 0 };
      }),

    async backlog() {
      const { outbox, parked, lease } = database.tables;
      const above = sql`id > (SELECT low FROM ${lease} WHERE id = 1)`;
      const { rows } = await database.query(
        "reading the outbox's backlog",
        sql`SELECT
          (SELECT COUNT(*) FROM (SELECT 1 FROM ${outbox} WHERE ${above} ORDER BY id LIMIT ${countedBacklog}) AS w),
          (SELECT CAST(id AS CHAR) FROM ${outbox} WHERE ${above} ORDER BY id LIMIT 1),
          (SELECT CAST(MAX(id) AS CHAR) FROM ${outbox}),
          (SELECT TIMESTAMPDIFF(MICROSECOND, created_at, UTC_TIMESTAMP(6)) FROM ${outbox} WHERE ${above} ORDER BY id LIMIT 1),
          (SELECT COUNT(*) FROM ${parked}),
          (SELECT owner IS NOT NULL AND expires > UTC_TIMESTAMP(6) FROM ${lease} WHERE id = 1)`,
      );
      const [counted = 0, first = 0, last = 0, ageMicros = 0, parkedRows = 0, relayed = 0] =
        rows[0]?.map(Number) ?? [];
      return {
        depth: counted < countedBacklog ? counted : Math.max(counted, last - first + 1),
        oldestMs: Math.max(0, ageMicros / 1_000),
        parked: parkedRows,
        relayed: relayed === 1,
      };
    },
  };
}
