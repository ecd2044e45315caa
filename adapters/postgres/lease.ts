/** The right to relay: one row, its times by the database's clock alone, its epoch the fence. */
import type { OutboxStore } from "../../src/spi.ts";
import type { PostgresDatabase } from "./connection.ts";
import type { Tables } from "./tables.ts";

const until = "clock_timestamp() + $2 * interval '1 millisecond'";

/** `low`: what the relay fetches above, noted at each renewal for `backlog`. */
export function createLease(
  database: PostgresDatabase,
  { lease }: Tables,
  low: () => bigint,
): Pick<OutboxStore, "acquire" | "renew" | "surrender"> {
  return {
    async acquire(owner, ttlMs) {
      const rows = await database.query("acquiring the relay's lease", {
        text: `UPDATE ${lease} AS n SET owner = $1, epoch = n.epoch + 1, clean = false, expires = ${until}, low = 0
          FROM (SELECT slot, clean FROM ${lease} WHERE slot = 'relay' AND expires < clock_timestamp() FOR UPDATE) AS o
          WHERE n.slot = o.slot RETURNING n.epoch::text, o.clean::text`,
        values: [owner, ttlMs],
      });
      const [epoch, clean] = rows[0] ?? [];
      return epoch === undefined || epoch === null
        ? undefined
        : { epoch: BigInt(epoch), clean: clean === "true" };
    },
    async renew(owner, epoch, ttlMs) {
      const rows = await database.query("renewing the relay's lease", {
        text: `UPDATE ${lease} SET expires = ${until}, low = $4
          WHERE slot = 'relay' AND owner = $1 AND epoch = $3 AND expires > clock_timestamp() RETURNING slot`,
        values: [owner, ttlMs, `${epoch}`, `${low()}`],
      });
      return rows.length === 1;
    },
    async surrender(owner, epoch) {
      await database.query("letting the relay's lease go", {
        text: `UPDATE ${lease} SET owner = NULL, expires = '-infinity', clean = true
          WHERE slot = 'relay' AND owner = $1 AND epoch = $2`,
        values: [owner, `${epoch}`],
      });
    },
  };
}
