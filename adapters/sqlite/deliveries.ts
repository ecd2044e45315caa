/**
 * Deliveries as rows, and how they are settled. Functions over a write transaction; they do nothing but SQL. Order per key
 * is kept by construction: of a key only the first row is ever in state `ready`, the others are `behind` it, and ending
 * a row lets the one go that is first then. A claim for `order: "key"` takes ready rows only; one for `order: "none"` takes
 * those behind as well, in the order they were published.
 */
import { type HeaderPatch, type WireMessage, patchHeaders } from "../../src/spi.ts";
import { headersToText } from "./mapping.ts";
import { bury, forget } from "./messages.ts";
import type { Sql } from "./sql.ts";

/** One hand-over. `epoch` counts those of one delivery: a settle that names an earlier one changes nothing. */
export interface Lease {
  readonly group: number;
  readonly message: number;
  readonly epoch: number;
}

/** The state of row `d` when nothing but its key holds it back. */
export const readyOrBehind = `CASE WHEN d.key IS NOT NULL AND EXISTS (
  SELECT 1 FROM postrider_deliveries e
  WHERE e.group_id = d.group_id AND e.key = d.key AND e.message_id < d.message_id) THEN 1 ELSE 0 END`;

/** Ends a delivery. `false`: it is no longer ours. */
export function end(sql: Sql, lease: Lease): boolean {
  const ended = take(sql, lease);
  if (ended) forget(sql, lease.message);
  return ended;
}

/** Moves a delivery to the dead letters of its group. `false`: it is no longer ours. */
export function endAsDead(
  sql: Sql,
  lease: Lease,
  topic: string,
  message: WireMessage,
  patch: HeaderPatch,
): boolean {
  if (!take(sql, lease)) return false;
  const letter = { ...message, headers: patchHeaders(message.headers, patch) };
  if (!bury(sql, lease.group, lease.message, topic, letter)) forget(sql, lease.message);
  return true;
}

/** Hands the delivery over again when it is due, with other headers. `false`: it is no longer ours. */
export function defer(
  sql: Sql,
  lease: Lease,
  dueAt: number,
  message: WireMessage,
  patch: HeaderPatch,
): boolean {
  return (
    sql.run(
      `UPDATE postrider_deliveries AS d
       SET state = CASE WHEN ?4 > 0 THEN 2 ELSE ${readyOrBehind} END, at = ?4, redeliveries = 0, headers = ?5
       WHERE group_id = ?1 AND message_id = ?2 AND state = 3 AND epoch = ?3`,
      lease.group,
      lease.message,
      lease.epoch,
      dueAt,
      headersToText(patchHeaders(message.headers, patch)),
    ) === 1
  );
}

/** Gives back, uncounted. `false`: it is no longer ours. */
export function release(sql: Sql, lease: Lease): boolean {
  return (
    sql.run(
      `UPDATE postrider_deliveries AS d SET state = ${readyOrBehind}, at = 0
       WHERE group_id = ?1 AND message_id = ?2 AND state = 3 AND epoch = ?3`,
      lease.group,
      lease.message,
      lease.epoch,
    ) === 1
  );
}

/** `false`: it is no longer ours. */
export function extend(sql: Sql, lease: Lease, leaseUntil: number): boolean {
  return (
    sql.run(
      "UPDATE postrider_deliveries SET at = ?4 WHERE group_id = ?1 AND message_id = ?2 AND state = 3 AND epoch = ?3",
      lease.group,
      lease.message,
      lease.epoch,
      leaseUntil,
    ) === 1
  );
}

/** Takes the row out and lets the next of its key go. `false`: it is no longer ours. */
export function take(sql: Sql, { group, message, epoch }: Lease): boolean {
  const row = sql.get<{ key: string | null }>(
    "DELETE FROM postrider_deliveries WHERE group_id = ? AND message_id = ? AND state = 3 AND epoch = ? RETURNING key",
    group,
    message,
    epoch,
  );
  if (row === undefined) return false;
  letNextGo(sql, group, row.key);
  return true;
}

/** Takes back a message that nobody has been given yet. What waited behind it in its key goes. */
export function takeBack(sql: Sql, message: number): void {
  const rows = sql.all<{ group_id: number; key: string | null }>(
    `SELECT d.group_id, d.key FROM postrider_messages m JOIN postrider_groups g ON g.topic_id = m.topic_id
       JOIN postrider_deliveries d ON d.group_id = g.id AND d.message_id = m.id WHERE m.id = ?`,
    message,
  );
  for (const { group_id: group, key } of rows) {
    sql.run("DELETE FROM postrider_deliveries WHERE group_id = ? AND message_id = ?", group, message);
    letNextGo(sql, group, key);
  }
  sql.run("DELETE FROM postrider_messages WHERE id = ?", message);
}

function letNextGo(sql: Sql, group: number, key: string | null): void {
  if (key === null) return;
  sql.run(
    `UPDATE postrider_deliveries SET state = 0 WHERE state = 1 AND group_id = ?1 AND message_id =
       (SELECT message_id FROM postrider_deliveries WHERE group_id = ?1 AND key = ?2 ORDER BY message_id LIMIT 1)`,
    group,
    key,
  );
}
