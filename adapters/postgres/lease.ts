/** The right to relay: one row, its times by the database's clock alone, its epoch the fence. */
import type { OutboxStore, RelayOrder } from "../../src/spi.ts";
import type { PostgresDatabase } from "./connection.ts";
import type { Tables } from "./tables.ts";

const until = "clock_timestamp() + $2 * interval '1 millisecond'";

/** `low`: what the relay fetches above, noted at each renewal for `backlog`. */
export function createLease(
  database: PostgresDatabase,
  { lease }: Tables,
  low: () => bigint,
): Pick<OutboxStore, "acquire" | "renew" | "surrender" | "requestOrder"> {
  return {
    async acquire(owner, ttlMs, order) {
      const rows = await database.query("acquiring the relay's lease", {
        text: `UPDATE ${lease} AS n SET owner = $1, epoch = n.epoch + 1, clean = false, expires = ${until}, low = 0,
            relay_order = coalesce($3::text, n.relay_order), order_named = $3::text IS NOT NULL
          FROM (SELECT slot, clean FROM ${lease} WHERE slot = 'relay' AND expires < clock_timestamp() FOR UPDATE) AS o
          WHERE n.slot = o.slot RETURNING n.epoch::text, o.clean::text, n.relay_order`,
        values: [owner, ttlMs, order],
      });
      const [epoch, clean, kept] = rows[0] ?? [];
      return epoch === undefined || epoch === null
        ? undefined
        : { epoch: BigInt(epoch), clean: clean === "true", order: kept as RelayOrder };
    },
    async renew(owner, epoch, ttlMs) {
      const rows = await database.query("renewing the relay's lease", {
        text: `UPDATE ${lease} SET expires = ${until}, low = $4
          WHERE slot = 'relay' AND owner = $1 AND epoch = $3 AND expires > clock_timestamp() RETURNING relay_order`,
        values: [owner, ttlMs, `${epoch}`, `${low()}`],
      });
      return rows[0]?.[0] as RelayOrder | undefined;
    },
    async surrender(owner, epoch) {
      await database.query("letting the relay's lease go", {
        text: `UPDATE ${lease} SET owner = NULL, expires = '-infinity', clean = true
          WHERE slot = 'relay' AND owner = $1 AND epoch = $2`,
        values: [owner, `${epoch}`],
      });
    },
    async requestOrder(order) {
      const rows = await database.query("asking for an order of the relay", {
        text: `WITH u AS (UPDATE ${lease} SET relay_order = $1
            WHERE slot = 'relay' AND relay_order <> $1 AND NOT (order_named AND expires > clock_timestamp())
            RETURNING relay_order)
          SELECT coalesce((SELECT relay_order FROM u), relay_order) FROM ${lease} WHERE slot = 'relay'`,
        values: [order],
      });
      return rows[0]?.[0] as RelayOrder;
    },
  };
}
