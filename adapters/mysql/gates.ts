/**
 * How the relay knows that no transaction is left that may own a lower `seq` than those it has seen. The server tells which
 * transactions are open only to those who may see everybody's (PROCESS), so ours make themselves known: before a
 * transaction draws its first `seq` it takes a shared lock on a gate, and holds it until it ends, however that comes about.
 * An exclusive lock that can be had at once proves that all who had passed the gate before have ended. Nobody waits for it:
 * a gate that is in use is skipped, and asked again.
 *
 * There are several gates, and the clock chooses one, so that each has its quiet time even when transactions never cease
 * to overlap. Which one a transaction takes is of no matter to safety: only all of them, found free after a moment, prove
 * that what began before it is over.
 *
 * A transaction that was prepared (XA) before a crash of the server has no lock after it: what it then commits, the relay
 * finds when it starts from the bottom, as it does every minute.
 */
import type { MysqlDatabase } from "./connection.ts";
import { type Sql, sql } from "./sql.ts";
import type { Tables } from "./tables.ts";

export const gateCount = 4;

/** An expression that takes the shared lock. */
export function passGate({ gates }: Tables): Sql {
  return sql`(SELECT COUNT(*) FROM ${gates} WHERE id = UNIX_TIMESTAMP() MOD ${gateCount} LOCK IN SHARE MODE)`;
}

/** Marks and horizons are counts of this process's own observations: one store's mean nothing to another's. */
export interface Gates {
  /** Now: an observation that begins later has a higher number. */
  mark(): bigint;
  /** The latest observation such that every gate was found free in it or after it. Observes if a mark waits for that. */
  horizon(): Promise<bigint>;
}

export function createGates(database: MysqlDatabase): Gates {
  /** By gate: the last observation that found it free. */
  const freeAt = new Map<number, bigint>(Array.from({ length: gateCount }, (_, id) => [id, 0n]));
  let observations = 0n;
  let awaited = 0n;

  const lowest = (): bigint => [...freeAt.values()].reduce((low, at) => (at < low ? at : low));

  return {
    mark() {
      awaited = observations;
      return awaited;
    },
    async horizon() {
      if (lowest() > awaited) return lowest();
      observations += 1n;
      const observation = observations;
      const { gates } = database.tables;
      const { rows } = await database.query(
        "looking for open transactions",
        sql`SELECT id FROM ${gates} FOR UPDATE SKIP LOCKED`,
      );
      for (const [id] of rows) freeAt.set(Number(id), observation);
      return lowest();
    },
  };
}
