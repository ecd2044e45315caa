/** What is next for a group: deliveries that become ready, and handing them over. Functions that do nothing but SQL. */
import type { WireMessage } from "../../src/spi.ts";
import { type Lease, readyOrBehind, take } from "./deliveries.ts";
import { type MessageColumns, fromColumns } from "./mapping.ts";
import { state } from "./schema.ts";
import type { Sql } from "./sql.ts";

/**
 * One delivery as it is handed over.
 * @internal
 */
export interface Claimed extends Lease {
  readonly redeliveries: number;
  readonly wire: WireMessage;
}

/** Rows that one write makes ready again at most, so that a great many due at once do not block the event loop. */
const ripenLimit = 1_000;

/** Makes ready what is due, and, unless `leasesToo` is false, what was handed over and neither settled nor extended. */
export function ripen(sql: Sql, group: number, now: number, leasesToo: boolean): void {
  const some = `message_id IN (
    SELECT message_id FROM postrider_deliveries WHERE group_id = ?1 AND state = ?2 AND at <= ?3 ORDER BY at LIMIT ${ripenLimit})`;
  sql.run(
    `UPDATE postrider_deliveries AS d SET state = ${readyOrBehind}, at = 0 WHERE group_id = ?1 AND ${some}`,
    group,
    state.delayed,
    now,
  );
  if (!leasesToo) return;
  sql.run(
    `UPDATE postrider_deliveries AS d SET state = ${readyOrBehind}, at = 0, redeliveries = redeliveries + 1
     WHERE group_id = ?1 AND ${some}`,
    group,
    state.leased,
    now,
  );
}

interface ClaimedRow extends MessageColumns {
  readonly message_id: number;
  readonly epoch: number;
  readonly redeliveries: number;
  readonly own_headers: string | null;
}

const nextInOrder =
  "SELECT message_id FROM postrider_deliveries WHERE group_id = ?1 AND state = 0 AND at = 0 ORDER BY message_id LIMIT ?2";
const nextOfAny = `SELECT message_id FROM postrider_deliveries WHERE group_id = ?1 AND state = 0 AND at = 0
  UNION ALL
  SELECT message_id FROM postrider_deliveries WHERE group_id = ?1 AND state = 1 AND at = 0
  ORDER BY message_id LIMIT ?2`;

/**
 * The statements of a claim, for a test of their plans.
 * @internal
 */
export const claimStatements: Readonly<Record<"key" | "none", string>> = {
  key: claimStatement(nextInOrder),
  none: claimStatement(nextOfAny),
};

function claimStatement(next: string): string {
  return `UPDATE postrider_deliveries SET state = 3, at = ?3, epoch = epoch + 1
    WHERE group_id = ?1 AND message_id IN (${next})
    RETURNING message_id, epoch, redeliveries, headers AS own_headers`;
}

export interface Claim {
  readonly claimed: readonly Claimed[];
  /** Deliveries whose message somebody has deleted; they are gone now too. */
  readonly missing: number;
}

export const nothingClaimed: Claim = { claimed: [], missing: 0 };

/** Hands over at most `limit` deliveries, oldest first, leased until `leaseUntil`. */
export function claim(
  sql: Sql,
  group: number,
  order: "none" | "key",
  limit: number,
  leaseUntil: number,
): Claim {
  if (limit <= 0) return nothingClaimed;
  const rows = sql.all<ClaimedRow>(claimStatements[order], group, limit, leaseUntil);
  const claimed: Claimed[] = [];
  for (const row of rows.sort((a, b) => a.message_id - b.message_id)) {
    const lease: Lease = { group, message: row.message_id, epoch: row.epoch };
    const message = sql.get<MessageColumns>(
      "SELECT key, attributes, headers, body FROM postrider_messages WHERE id = ?",
      row.message_id,
    );
    if (message === undefined) take(sql, lease);
    else {
      const wire = fromColumns({ ...message, headers: row.own_headers ?? message.headers });
      claimed.push({ ...lease, redeliveries: row.redeliveries, wire });
    }
  }
  return { claimed, missing: rows.length - claimed.length };
}

/** What there is to do for a group, without changing anything. Times are `undefined` when there is none. */
export interface Glance {
  readonly exists: boolean;
  readonly ready: boolean;
  readonly nextDueAt: number | undefined;
  readonly nextExpiryAt: number | undefined;
}

export function glance(sql: Sql, group: number, order: "none" | "key"): Glance {
  const row = sql.get<{ found: number; ready: number; due: number | null; expiry: number | null }>(
    `SELECT EXISTS (SELECT 1 FROM postrider_groups WHERE id = ?1) AS found,
            EXISTS (SELECT 1 FROM postrider_deliveries WHERE group_id = ?1 AND state = 0)
            OR (?2 AND EXISTS (SELECT 1 FROM postrider_deliveries WHERE group_id = ?1 AND state = 1)) AS ready,
            (SELECT min(at) FROM postrider_deliveries WHERE group_id = ?1 AND state = 2) AS due,
            (SELECT min(at) FROM postrider_deliveries WHERE group_id = ?1 AND state = 3) AS expiry`,
    group,
    order === "none" ? 1 : 0,
  );
  return {
    exists: row?.found === 1,
    ready: row?.ready === 1,
    nextDueAt: row?.due ?? undefined,
    nextExpiryAt: row?.expiry ?? undefined,
  };
}
