/** Calls below the client's own interface: committed offsets with their metadata, commits without a member, reading a log. */
import type { Cluster, KafkaMessage } from "kafkajs";
import type { Client } from "./client.ts";

/** Offset of a partition as the group's coordinator keeps it; `"-1"` is none. */
export interface CommittedOffset {
  readonly partition: number;
  readonly offset: string;
  readonly metadata?: string | null;
}

/** Partitions by topic. */
export type Partitions = Readonly<Record<string, readonly number[]>>;

export interface OpenCluster {
  readonly cluster: Cluster;
  close(): Promise<void>;
}

/**
 * Connects, and knows the leaders of `topics`. The client gives its cluster to partition assigners only: a consumer that
 * never joins is the way to it.
 */
export async function openCluster(client: Client, topics: readonly string[]): Promise<OpenCluster> {
  let cluster: Cluster | undefined;
  const consumer = client.kafka.consumer({
    groupId: "postrider",
    retry: client.retry,
    allowAutoTopicCreation: false,
    partitionAssigners: [
      (config) => {
        cluster = config.cluster;
        const protocol = { name: "none", metadata: Buffer.alloc(0) };
        return { name: "none", version: 0, assign: () => Promise.resolve([]), protocol: () => protocol };
      },
    ],
  });
  if (cluster === undefined) throw new Error("kafkajs has changed: an assigner is given no cluster");
  await cluster.connect();
  if (topics.length > 0) await cluster.addMultipleTargetTopics([...topics]);
  return { cluster, close: () => consumer.disconnect() };
}

/** Committed offsets of a group. Not by the client's `fetchOffsets`: it remembers the topics, and fails when one is deleted. */
export async function fetchCommitted(
  cluster: Pick<Cluster, "findGroupCoordinator">,
  groupId: string,
  partitions: Partitions,
): Promise<ReadonlyMap<string, readonly CommittedOffset[]>> {
  const topics = Object.entries(partitions)
    .filter(([, list]) => list.length > 0)
    // The type asks for an offset, the request has none.
    .map(([topic, list]) => ({ topic, partitions: list.map((partition) => ({ partition, offset: "" })) }));
  // None would be taken for all topics of the group.
  if (topics.length === 0) return new Map();
  const coordinator = await cluster.findGroupCoordinator({ groupId });
  const { responses } = await coordinator.offsetFetch({ groupId, topics });
  return new Map(responses.map((response) => [response.topic, response.partitions]));
}

/** First or last offset of each partition of a topic. */
export async function fetchEnds(
  cluster: Cluster,
  topic: string,
  which: "first" | "next",
): Promise<ReadonlyMap<number, number>> {
  const partitions = cluster
    .findTopicPartitionMetadata(topic)
    .map(({ partitionId }) => ({ partition: partitionId }));
  const [found] = await cluster.fetchTopicsOffset([{ topic, partitions, fromBeginning: which === "first" }]);
  return new Map(found?.partitions.map(({ partition, offset }) => [partition, Number(offset)]));
}

/** Commits as nobody: the broker takes it while the group has no members, and answers `UNKNOWN_MEMBER_ID` when it has. */
export async function commitAsNobody(
  cluster: Cluster,
  groupId: string,
  topic: string,
  offsets: ReadonlyMap<number, number>,
): Promise<void> {
  const coordinator = await cluster.findGroupCoordinator({ groupId });
  const partitions = Array.from(offsets, ([partition, offset]) => ({ partition, offset: String(offset) }));
  await coordinator.offsetCommit({
    groupId,
    groupGenerationId: -1,
    memberId: "",
    topics: [{ topic, partitions }],
  });
}

const readBytes = 4 * 1_048_576;
const readWaitMs = 100;
const readCommitted = 1;

/** Records of one partition from `from` on, a page of them; empty when there is none yet. */
export async function readPage(
  cluster: Cluster,
  topic: string,
  partition: number,
  from: number,
): Promise<readonly KafkaMessage[]> {
  const leader = Object.keys(cluster.findLeaderForPartitions(topic, [partition]))[0];
  const broker = await cluster.findBroker({ nodeId: leader ?? "" });
  const { responses } = (await broker.fetch({
    isolationLevel: readCommitted,
    maxWaitTime: readWaitMs,
    maxBytes: readBytes,
    topics: [{ topic, partitions: [{ partition, fetchOffset: String(from), maxBytes: readBytes }] }],
  })) as { responses: { partitions: { messages: (KafkaMessage & { isControlRecord?: boolean })[] }[] }[] };
  const messages = responses.flatMap((response) => response.partitions).flatMap((one) => one.messages);
  // A batch is given whole, also when only its end was asked for.
  return messages.filter(({ offset, isControlRecord }) => Number(offset) >= from && isControlRecord !== true);
}
