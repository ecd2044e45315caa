/** Publishing: a batch is one write, which shares its flush with others that wait at the same time. */
import {
  type Headers,
  type OutgoingMessage,
  type PublishResult,
  type WireMessage,
  header,
  headerTime,
} from "../../src/spi.ts";
import type { SqliteConnection } from "./connection.ts";
import { takeBack } from "./deliveries.ts";
import { addDead, addForGroup, addForTopic } from "./messages.ts";
import { brokerError, isUnknown } from "./errors.ts";
import type { Sql } from "./sql.ts";
import { groupId, topicId } from "./topology.ts";

/** How long a message id, or an idempotency key, is remembered after its message was published. */
const dedupeWindowMs = 10 * 60_000;

/** Longest delay. */
export const maxDelayMs: number = 365 * 86_400_000;

export async function publishBatch(
  connection: SqliteConnection,
  batch: readonly OutgoingMessage[],
): Promise<readonly PublishResult[]> {
  try {
    const now = connection.now();
    const results = await connection.write((sql) => {
      forgetOld(sql, now, batch.length);
      return batch.map((outgoing) => add(sql, connection.nameOf(outgoing.destination.topic), outgoing, now));
    });
    for (const topic of new Set(batch.map(({ destination }) => connection.nameOf(destination.topic))))
      connection.poke(topic);
    return results;
  } catch (cause) {
    const error = brokerError("publish", connection.path, cause);
    return batch.map(() => ({ status: isUnknown(cause) ? "unknown" : "rejected", error }));
  }
}

/** Takes back what waits for its delay to pass. `false`: there is none of this id. Rejects when that is not known. */
export async function cancelDelayed(
  connection: SqliteConnection,
  topic: string,
  id: string,
): Promise<boolean> {
  try {
    const now = connection.now();
    const cancelled = await connection.write((sql) => cancel(sql, topicId(sql, topic), id, now));
    if (cancelled) connection.poke(topic);
    return cancelled;
  } catch (cause) {
    throw brokerError("cancel", connection.path, cause);
  }
}

function cancel(sql: Sql, topic: number, id: string, now: number): boolean {
  // `due_at > 0` is what the index is for.
  const rows = sql.all<{ id: number; attributes: string }>(
    `SELECT id, attributes FROM postrider_messages
     WHERE topic_id = ? AND attributes ->> '$.id' = ? AND due_at > 0 AND due_at > ?`,
    topic,
    id,
    now,
  );
  for (const row of rows) {
    takeBack(sql, row.id);
    for (const key of dedupeKeys(JSON.parse(row.attributes) as Headers))
      sql.run("DELETE FROM postrider_published WHERE topic_id = ? AND key = ?", topic, key);
  }
  return rows.length > 0;
}

function add(sql: Sql, topic: string, outgoing: OutgoingMessage, now: number): PublishResult {
  const { destination, message, durability } = outgoing;
  const id = topicId(sql, topic);
  if (destination.group === undefined) {
    if (!remember(sql, id, message, now)) return { status: "accepted", durability, duplicate: true };
    addForTopic(sql, id, message, dueAt(message, now));
  } else {
    const group = groupId(sql, topic, destination.group);
    if (destination.dead === true) addDead(sql, id, group, message, topic);
    else addForGroup(sql, id, group, message, dueAt(message, now));
  }
  return { status: "accepted", durability };
}

/** When a delayed message is due; 0 is now, also for one that says it waits longer than any of ours can. */
function dueAt({ headers }: WireMessage, now: number): number {
  const notBefore = headerTime(headers, header.notBefore) ?? 0;
  return notBefore > now && notBefore - now <= maxDelayMs ? Math.ceil(notBefore) : 0;
}

/** `false`: published before, by its id or idempotency key. */
function remember(sql: Sql, topic: number, { attributes }: WireMessage, now: number): boolean {
  const keys = dedupeKeys(attributes);
  const isKnown = (key: string): boolean =>
    sql.get(
      "SELECT 1 FROM postrider_published WHERE topic_id = ? AND key = ? AND until > ?",
      topic,
      key,
      now,
    ) !== undefined;
  if (keys.some(isKnown)) return false;
  for (const key of keys) {
    sql.run(
      "INSERT OR REPLACE INTO postrider_published (topic_id, key, until) VALUES (?, ?, ?)",
      topic,
      key,
      now + dedupeWindowMs,
    );
  }
  return true;
}

function dedupeKeys({ id, idempotencykey }: Headers): string[] {
  return [
    ...(id === undefined ? [] : [`id:${id}`]),
    ...(idempotencykey === undefined ? [] : [`key:${idempotencykey}`]),
  ];
}

/** Removes more old keys than this batch adds, so that the table never holds much more than the window. */
function forgetOld(sql: Sql, now: number, adding: number): void {
  sql.run(
    `DELETE FROM postrider_published WHERE until <= ?1 AND id IN
       (SELECT id FROM postrider_published ORDER BY id LIMIT ?2)`,
    now,
    3 * adding + 10,
  );
}
