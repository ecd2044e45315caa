/** What is made on the broker: the topic, and of each of its groups the retry topics and the dead letters. */
import type { Cluster } from "kafkajs";
import type { GroupSpec, TopicSpec, Topology } from "../../src/spi.ts";
import { checkRetryTopic, checkTopic } from "./checks.ts";
import { commitAsNobody, fetchCommitted, fetchEnds } from "./cluster.ts";
import type { KafkaConnection } from "./connection.ts";
import { hasType, isForbidden, kafkaError } from "./errors.ts";
import { type TopicSettings, readTopicSettings } from "./settings.ts";
import { tierBoundsMs, tiersFor } from "./tiers.ts";
import type { TopicPlan, Topics } from "./topics.ts";

const dayMs = 86_400_000;
/** How long a retry topic keeps a record beyond its delay, where the topic itself does not say longer. */
const retryRetentionMs = 30 * dayMs;
/** Copies have headers that the original has not; they must fit where the original did. */
const copyOverheadBytes = 128 * 1_024;

/** A group's topics as the broker knows them. */
export interface GroupTopics {
  readonly main: string;
  /** Retry topics by their bound, the smallest first. */
  readonly retries: ReadonlyMap<number, string>;
  readonly dead: string;
}

/** Names of a group's topics with these tiers. */
function namesOf(
  { names }: KafkaConnection,
  { topic, group }: GroupSpec,
  tiers: readonly number[],
): GroupTopics {
  return {
    main: names.topic(topic.name),
    retries: new Map(tiers.map((bound) => [bound, names.retry(topic.name, group, bound)])),
    dead: names.dead(topic.name, group),
  };
}

export async function declareTopology(
  connection: KafkaConnection,
  topics: Topics,
  topology: Topology,
): Promise<void> {
  const named = new Map(topology.topics.map((topic) => [topic.name, topic]));
  for (const { topic } of topology.groups) named.set(topic.name, topic);
  for (const topic of named.values()) await declareTopic(connection, topics, topic);
  for (const spec of topology.groups) {
    await declareGroup(connection, topics, spec, 0);
    await pinGroup(connection, spec);
  }
}

async function declareTopic(connection: KafkaConnection, topics: Topics, spec: TopicSpec): Promise<void> {
  const name = connection.names.topic(spec.name);
  const { ownMessageLimit, maxMessageBytes } = connection.options;
  const limit = ownMessageLimit ? { "max.message.bytes": String(maxMessageBytes + copyOverheadBytes) } : {};
  const found = await topics.ensure([{ name, partitions: spec.partitions, config: limit }]);
  const info = found.get(name);
  if (info === undefined || info.replicas < 3) return;
  const settings = (await readTopicSettings(connection, [name])).get(name) ?? {};
  checkTopic(name, info.replicas, settings, connection.warn);
}

/** Makes the retry topics that delays up to `longestMs` need, and the dead letters; the topic itself is there. */
export async function declareGroup(
  connection: KafkaConnection,
  topics: Topics,
  spec: GroupSpec,
  longestMs: number,
): Promise<GroupTopics> {
  const group = namesOf(connection, spec, tiersFor(longestMs));
  const main = topics.known(group.main) ?? (await topics.ask(group.main));
  const settings = (await readTopicSettings(connection, [group.main])).get(group.main) ?? {};
  const partitions = main?.partitions ?? spec.topic.partitions;
  const maxBatchBytes = main?.maxBatchBytes ?? connection.maxBatchBytes;
  const found = await topics.ensure(plansFor(group, partitions, maxBatchBytes, settings));
  const retries = new Map(Array.from(group.retries, ([bound, name]) => [name, bound]));
  const old = [...retries.keys()].filter((name) => found.has(name));
  for (const [name, read] of await readTopicSettings(connection, old)) {
    checkRetryTopic(name, retries.get(name) as number, read, connection.warn);
  }
  return group;
}

/**
 * The group's topics to read: those its policy needs, made if missing, and larger ones that an earlier policy has left behind,
 * where messages may still wait.
 */
export async function topicsToRead(
  connection: KafkaConnection,
  topics: Topics,
  spec: GroupSpec,
  longestMs: number,
): Promise<GroupTopics> {
  const group = await declareGroup(connection, topics, spec, longestMs);
  const all = namesOf(connection, spec, tierBoundsMs);
  const retries = new Map(group.retries);
  for (const [bound, name] of all.retries) {
    if (!retries.has(bound) && (await topics.ask(name)) !== undefined) retries.set(bound, name);
  }
  return { ...group, retries };
}

function plansFor(
  { retries, dead }: GroupTopics,
  partitions: number,
  maxBatchBytes: number,
  settings: TopicSettings,
): TopicPlan[] {
  const config = { "max.message.bytes": String(maxBatchBytes + copyOverheadBytes) };
  const keptMs = Math.max(settings.retentionMs ?? 0, retryRetentionMs);
  const retry = Array.from(retries, ([bound, name]): TopicPlan => {
    const retention = { "retention.ms": String(keptMs + bound), "retention.bytes": "-1" };
    return { name, partitions, config: { ...config, ...retention, "cleanup.policy": "delete" } };
  });
  // One partition: letters are few, and oldest first is then simply the order of the log.
  return [...retry, { name: dead, partitions: 1, config: { ...config, "cleanup.policy": "compact" } }];
}

/**
 * Commits where a new group begins: at the first message that is kept. Later that tells messages that were removed unread
 * from such that never were, and makes the group visible before it consumes. Where the group is at work already, on another
 * topic, only its members can commit: the same place is where they begin by themselves.
 */
async function pinGroup(connection: KafkaConnection, { topic, group }: GroupSpec): Promise<void> {
  const name = connection.names.topic(topic.name);
  const groupId = connection.names.group(group);
  try {
    await connection.withCluster([name], (cluster) =>
      connection.untilKnown(() => pin(cluster, groupId, name)),
    );
  } catch (cause) {
    const busy = hasType(cause, "UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "REBALANCE_IN_PROGRESS");
    if (busy || isForbidden(cause)) return;
    throw kafkaError(`cannot declare group "${groupId}" of topic "${name}"`, cause, "ERR_CONNECTION_LOST");
  }
}

async function pin(cluster: Cluster, groupId: string, topic: string): Promise<void> {
  // A leader may have moved since it was last asked for.
  await cluster.refreshMetadata();
  const first = await fetchEnds(cluster, topic, "first");
  const committed = await fetchCommitted(cluster, groupId, { [topic]: [...first.keys()] });
  const known = committed.get(topic)?.filter(({ offset }) => Number(offset) >= 0) ?? [];
  const pinned = new Set(known.map(({ partition }) => partition));
  const unpinned = new Map([...first].filter(([partition]) => !pinned.has(partition)));
  if (unpinned.size > 0) await commitAsNobody(cluster, groupId, topic, unpinned);
}
