/**
 * The relay's side of the outbox. Statements are never prepared: a plan made while the table is empty reads all of it,
 * dead rows included, and stays in use through a spike.
 */
import type { OutboxEntry, OutboxStore } from "../../src/spi.ts";
import type { PostgresDatabase } from "./connection.ts";
import { handleOf } from "./handle.ts";
import { createLease } from "./lease.ts";
import { entryColumns, rowOf } from "./mapping.ts";
import type { Tables } from "./tables.ts";

/** Up to so many rows are counted; beyond, the backlog is estimated. */
const countedBacklog = 10_000;

export function createOutboxStore(
  database: PostgresDatabase,
  tables: Tables,
  append: (handle: unknown, entries: readonly OutboxEntry[]) => Promise<void>,
): OutboxStore {
  const { outbox, parked, lease } = tables;
  const columns = entryColumns.join(", ");
  const held = (epoch: string): string =>
    `SELECT 1 FROM ${lease} WHERE slot = 'relay' AND epoch = ${epoch} AND owner IS NOT NULL`;
  let low = 0n;

  return {
    append,
    onceEnded(handle, ended) {
      const tx = handleOf(handle);
      if (tx.onceEnded === undefined) ended();
      else tx.onceEnded(ended);
    },
    ...createLease(database, tables, () => low),

    async fetch({ above, except = [], parkedTopics, limit }) {
      low = above;
      // The horizon comes with the rows, from the same snapshot; and without them, when there are none.
      const rows = await database.query("fetching from the outbox", {
        text: `SELECT h.horizon, r.* FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon) AS h
          LEFT JOIN LATERAL (SELECT o.id::text, ${entryColumns.map((column) => `o.${column}::text`).join(", ")}
            FROM ${outbox} AS o WHERE o.id > $1 AND NOT (o.topic = ANY($2::text[])) AND NOT (o.id = ANY($4::bigint[]))
            ORDER BY o.id LIMIT $3) AS r ON true`,
        values: [`${above}`, parkedTopics, limit, except.map(String)],
      });
      const horizon = BigInt(rows[0]?.[0] ?? 0);
      const found = rows.flatMap((cells) => (cells[1] === null ? [] : [rowOf(cells.slice(1))]));
      // The join has no order of its own to promise. Already sorted, as ever, this is one comparison per row.
      return { rows: found.sort((a, b) => (a.seq < b.seq ? -1 : 1)), horizon };
    },

    async remove(seqs, epoch) {
      const rows = await database.query("removing from the outbox", {
        text: `WITH h AS MATERIALIZED (${held("$2")}),
          d AS (DELETE FROM ${outbox} WHERE id = ANY($1::bigint[]) AND EXISTS (SELECT 1 FROM h))
          SELECT pg_current_xact_id()::text FROM h`,
        values: [seqs.map(String), `${epoch}`],
      });
      const mark = rows[0]?.[0];
      return { fenced: mark === undefined, mark: BigInt(mark ?? 0) };
    },

    async park(row, epoch, error) {
      const rows = await database.query("parking an outbox row", {
        // FOR SHARE: no other relay takes over between looking and moving.
        text: `WITH h AS MATERIALIZED (${held("$2")} FOR SHARE),
          d AS (DELETE FROM ${outbox} WHERE id = $1 AND EXISTS (SELECT 1 FROM h) RETURNING *),
          p AS (INSERT INTO ${parked} (id, ${columns}, created_at, error)
            SELECT id, ${columns}, created_at, $3 FROM d)
          SELECT 1::text FROM h`,
        values: [`${row.seq}`, `${epoch}`, error.replaceAll("\u0000", "")],
      });
      return { fenced: rows.length === 0 };
    },

    async backlog() {
      const rows = await database.query("reading the outbox's backlog", {
        text: `WITH l AS MATERIALIZED (SELECT low, owner IS NOT NULL AND expires > clock_timestamp() AS relayed
            FROM ${lease} WHERE slot = 'relay'),
          w AS MATERIALIZED (SELECT id, created_at FROM ${outbox} WHERE id > (SELECT low FROM l)
            ORDER BY id LIMIT ${countedBacklog}),
          f AS (SELECT id, created_at FROM w ORDER BY id LIMIT 1),
          c AS (SELECT count(*) AS n FROM w)
          SELECT CASE WHEN n < ${countedBacklog} THEN n ELSE greatest(n, least(
              pg_stat_get_live_tuples('${outbox}'::regclass),
              (SELECT max(id) FROM ${outbox}) - (SELECT id FROM f) + 1)) END::text,
            coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at) * 1000 FROM f), 0)::text,
            (SELECT count(*) FROM ${parked})::text,
            (SELECT relayed FROM l)::text FROM c`,
      });
      const [depth, oldestMs, parkedRows, relayed] = rows[0] ?? [];
      return {
        depth: Number(depth),
        oldestMs: Math.max(0, Number(oldestMs)),
        parked: Number(parkedRows),
        relayed: relayed === "true",
      };
    },
  };
}
