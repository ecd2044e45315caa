/**
 * Messages as rows, each once for all groups: adding them, burying them as dead letters, and forgetting them when nobody
 * needs them any more. Functions over a write transaction; they do nothing but SQL.
 */
import { type WireMessage, idOf } from "../../src/spi.ts";
import { headersToText, toColumns } from "./mapping.ts";
import type { Sql } from "./sql.ts";

/** Adds a message for every group of the topic; without one it is kept for the first. */
export function addForTopic(sql: Sql, topic: number, message: WireMessage, dueAt: number): void {
  const id = addMessage(sql, topic, message, dueAt);
  const added = sql.run(
    `INSERT INTO postrider_deliveries (group_id, message_id, key, state, at)
     SELECT g.id, ?1, ?2,
            CASE WHEN ?3 > 0 THEN 2
                 WHEN ?2 IS NOT NULL
                  AND EXISTS (SELECT 1 FROM postrider_deliveries d WHERE d.group_id = g.id AND d.key = ?2) THEN 1
                 ELSE 0 END,
            ?3
     FROM postrider_groups g WHERE g.topic_id = ?4`,
    id,
    message.key ?? null,
    dueAt,
    topic,
  );
  if (added === 0) sql.run("UPDATE postrider_messages SET retained = 1 WHERE id = ?", id);
}

/** Adds a message for one group. */
export function addForGroup(
  sql: Sql,
  topic: number,
  group: number,
  message: WireMessage,
  dueAt: number,
): void {
  const id = addMessage(sql, topic, message, dueAt);
  sql.run(
    `INSERT INTO postrider_deliveries (group_id, message_id, key, state, at)
     VALUES (?1, ?2, ?3,
             CASE WHEN ?4 > 0 THEN 2
                  WHEN ?3 IS NOT NULL
                   AND EXISTS (SELECT 1 FROM postrider_deliveries d WHERE d.group_id = ?1 AND d.key = ?3) THEN 1
                  ELSE 0 END,
             ?4)`,
    group,
    id,
    message.key ?? null,
    dueAt,
  );
}

/** Adds a dead letter; one per message id, the first stays. */
export function addDead(sql: Sql, topic: number, group: number, message: WireMessage, name: string): void {
  const id = addMessage(sql, topic, message, 0);
  if (!bury(sql, group, id, name, message)) sql.run("DELETE FROM postrider_messages WHERE id = ?", id);
}

function addMessage(sql: Sql, topic: number, message: WireMessage, dueAt: number): number {
  const { key, attributes, headers, body } = toColumns(message);
  return sql.insert(
    `INSERT INTO postrider_messages (topic_id, key, attributes, headers, body, due_at, retained)
     VALUES (?, ?, ?, ?, ?, ?, 0)`,
    topic,
    key,
    attributes,
    headers,
    body,
    dueAt,
  );
}

/**
 * Makes a message a dead letter of the group. `false`: the group has one of that id. `name` is the topic's, for messages
 * that have no id.
 */
export function bury(sql: Sql, group: number, id: number, name: string, message: WireMessage): boolean {
  return (
    sql.run(
      "INSERT OR IGNORE INTO postrider_dead (group_id, message_key, message_id, headers) VALUES (?, ?, ?, ?)",
      group,
      idOf(name, String(id), message),
      id,
      headersToText(message.headers),
    ) === 1
  );
}

/** Removes a message that no group and no dead letter needs any more. */
export function forget(sql: Sql, message: number): void {
  sql.run(
    `DELETE FROM postrider_messages AS m WHERE id = ?1
       AND NOT EXISTS (SELECT 1 FROM postrider_groups g JOIN postrider_deliveries d
                         ON d.group_id = g.id AND d.message_id = ?1 WHERE g.topic_id = m.topic_id)
       AND NOT EXISTS (SELECT 1 FROM postrider_dead WHERE message_id = ?1)`,
    message,
  );
}
