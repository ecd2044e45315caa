/** Topics and groups as rows. Functions over a write transaction; they do nothing but SQL. */
import type { Sql } from "./sql.ts";

export function hasTopic(sql: Sql, topic: string): boolean {
  return sql.get("SELECT 1 FROM postrider_topics WHERE name = ?", topic) !== undefined;
}

/** The topic's id; the topic is made when it is not there. */
export function topicId(sql: Sql, topic: string): number {
  const row = sql.get<{ id: number }>("SELECT id FROM postrider_topics WHERE name = ?", topic);
  return row?.id ?? sql.insert("INSERT INTO postrider_topics (name) VALUES (?)", topic);
}

/** The group's id, if it is there. */
export function findGroup(sql: Sql, topic: string, group: string): number | undefined {
  return sql.get<{ id: number }>(
    `SELECT g.id FROM postrider_groups g JOIN postrider_topics t ON t.id = g.topic_id WHERE t.name = ? AND g.name = ?`,
    topic,
    group,
  )?.id;
}

/** The group's id; the group is made when it is not there, and gets what its topic has kept if it is the first. */
export function groupId(sql: Sql, topic: string, group: string): number {
  const known = findGroup(sql, topic, group);
  if (known !== undefined) return known;
  const ofTopic = topicId(sql, topic);
  const id = sql.insert("INSERT INTO postrider_groups (topic_id, name) VALUES (?, ?)", ofTopic, group);
  sql.run(
    `INSERT INTO postrider_deliveries (group_id, message_id, key, state, at)
     SELECT ?1, id, key,
            CASE WHEN due_at > 0 THEN 2
                 WHEN key IS NOT NULL AND row_number() OVER (PARTITION BY key ORDER BY id) > 1 THEN 1
                 ELSE 0 END,
            due_at
     FROM postrider_messages WHERE topic_id = ?2 AND retained = 1`,
    id,
    ofTopic,
  );
  sql.run("UPDATE postrider_messages SET retained = 0 WHERE topic_id = ? AND retained = 1", ofTopic);
  return id;
}
