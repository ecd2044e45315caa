/** The right to relay: one row, its times by the database's clock alone, its epoch the fence. */
import type { OutboxStore, RelayOrder } from "../../src/spi.ts";
import type { MysqlDatabase } from "./connection.ts";
import type { Run } from "./query.ts";
import { type Sql, sql } from "./sql.ts";

/** Of a time in milliseconds, by the database's clock. UTC, because a local time may come twice. */
export function fromNow(ms: number): Sql {
  return sql`UTC_TIMESTAMP(6) + INTERVAL ${Math.round(ms * 1_000)} MICROSECOND`;
}

/** `low`: what the relay fetches above, noted at each renewal for `backlog`. */
export function createLease(
  database: MysqlDatabase,
  low: () => bigint,
): Pick<OutboxStore, "acquire" | "renew" | "surrender" | "requestOrder"> {
  return {
    // No row stays locked between looking and taking: a process that is stopped there would keep the lease from all others.
    acquire: (owner, ttlMs, order) =>
      database.session("acquiring the relay's lease", async (run) => {
        const { lease } = database.tables;
        const { rows } = await run(
          sql`SELECT CAST(epoch AS CHAR), clean FROM ${lease} WHERE id = 1 AND expires < UTC_TIMESTAMP(6)`,
        );
        const [before, clean] = rows[0] ?? [];
        if (before === undefined) return undefined;
        const epoch = BigInt(String(before)) + 1n;
        const named =
          order === undefined ? sql`order_named = 0` : sql`order_named = 1, relay_order = ${order}`;
        const { affected } = await run(sql`UPDATE ${lease}
          SET owner = ${owner}, epoch = ${epoch}, clean = 0, expires = ${fromNow(ttlMs)}, low = 0, ${named}
          WHERE id = 1 AND epoch = ${epoch - 1n} AND expires < UTC_TIMESTAMP(6)`);
        if (affected !== 1) return undefined;
        return { epoch, clean: Number(clean) === 1, order: await storedOrder(run, lease) };
      }),
    renew: (owner, epoch, ttlMs) =>
      database.session("renewing the relay's lease", async (run) => {
        const { lease } = database.tables;
        const { affected } = await run(sql`UPDATE ${lease} SET expires = ${fromNow(ttlMs)}, low = ${low()}
          WHERE id = 1 AND owner = ${owner} AND epoch = ${epoch} AND expires > UTC_TIMESTAMP(6)`);
        return affected === 1 ? storedOrder(run, lease) : undefined;
      }),
    async surrender(owner, epoch) {
      await database.query(
        "letting the relay's lease go",
        sql`UPDATE ${database.tables.lease} SET owner = NULL, expires = '1000-01-01', clean = 1
          WHERE id = 1 AND owner = ${owner} AND epoch = ${epoch}`,
      );
    },
    requestOrder: (order) =>
      database.session("asking for an order of the relay", async (run) => {
        const { lease } = database.tables;
        await run(sql`UPDATE ${lease} SET relay_order = ${order}
          WHERE id = 1 AND relay_order <> ${order} AND NOT (order_named AND expires > UTC_TIMESTAMP(6))`);
        return storedOrder(run, lease);
      }),
  };
}

async function storedOrder(run: Run, lease: Sql): Promise<RelayOrder> {
  const { rows } = await run(sql`SELECT relay_order FROM ${lease} WHERE id = 1`);
  return String(rows[0]?.[0]) as RelayOrder;
}
