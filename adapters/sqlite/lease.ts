/** The right to relay: one row, its epoch the fence. */
import type { OutboxStore, RelayOrder } from "../../src/spi.ts";
import type { SqliteFile } from "./file.ts";

export function createLease(
  file: () => SqliteFile,
): Pick<OutboxStore, "acquire" | "renew" | "surrender" | "requestOrder"> {
  const now = (): number => file().runtime.now();
  return {
    async acquire(owner, ttlMs, order) {
      const free = await file().read(
        (sql) => sql.get("SELECT 1 FROM postrider_relay WHERE expires > ?", now()) === undefined,
      );
      if (!free) return undefined;
      const taken = await file().write((sql) => {
        const before = sql.get<{ clean: number }>(
          "SELECT clean FROM postrider_relay WHERE expires <= ?",
          now(),
        );
        const row = sql.get<{ epoch: number; relay_order: RelayOrder }>(
          `INSERT INTO postrider_relay (slot, owner, epoch, expires, clean, relay_order, order_named)
           VALUES (1, ?1, 1, ?2, 0, coalesce(?3, 'key'), ?3 IS NOT NULL)
           ON CONFLICT (slot) DO UPDATE SET owner = excluded.owner, epoch = epoch + 1, expires = excluded.expires, clean = 0,
             relay_order = coalesce(?3, relay_order), order_named = excluded.order_named
           WHERE expires <= ?4 RETURNING epoch, relay_order`,
          owner,
          Math.ceil(now() + ttlMs),
          order ?? null,
          now(),
        );
        return row === undefined ? undefined : { ...row, clean: before?.clean !== 0 };
      });
      if (taken === undefined) return undefined;
      return { epoch: BigInt(taken.epoch), clean: taken.clean, order: taken.relay_order };
    },

    renew: (owner, epoch, ttlMs) =>
      file().write((sql) => {
        const row = sql.get<{ relay_order: RelayOrder }>(
          `UPDATE postrider_relay SET expires = ?1 WHERE owner = ?2 AND epoch = ?3 AND expires > ?4
           RETURNING relay_order`,
          Math.ceil(now() + ttlMs),
          owner,
          epoch,
          now(),
        );
        return row?.relay_order;
      }),

    async surrender(owner, epoch) {
      await file().write((sql) =>
        sql.run(
          "UPDATE postrider_relay SET expires = 0, clean = 1 WHERE owner = ? AND epoch = ?",
          owner,
          epoch,
        ),
      );
    },

    async requestOrder(order) {
      const decided = await file().read((sql) => {
        const row = sql.get<{ relay_order: RelayOrder; named: number }>(
          "SELECT relay_order, order_named AND expires > ? AS named FROM postrider_relay",
          now(),
        );
        return row?.relay_order === order || row?.named === 1 ? row.relay_order : undefined;
      });
      if (decided !== undefined) return decided;
      return file().write((sql) => {
        sql.run(
          "UPDATE postrider_relay SET relay_order = ? WHERE NOT (order_named AND expires > ?)",
          order,
          now(),
        );
        return (
          sql.get<{ relay_order: RelayOrder }>("SELECT relay_order FROM postrider_relay")?.relay_order ??
          order
        );
      });
    },
  };
}
