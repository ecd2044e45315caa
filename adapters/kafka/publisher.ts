/** Publishing: where each message goes, which producer takes it, and what its result means. */
import {
  type Destination,
  type MessagingError,
  type OutgoingMessage,
  type PublishResult,
  TransportError,
  createSpreader,
  header,
  headerCount,
  idOf,
  partitionOfKey,
  type WireMessage,
} from "../../src/spi.ts";
import type { KafkaConnection } from "./connection.ts";
import { kafkaError } from "./errors.ts";
import { type RecordParts, asDeadLetter, sizeOf, toRecord } from "./mapping.ts";
import type { Outbound } from "./requests.ts";
import { type Acks, type FindMissing, SerialProducer, type Stored } from "./serial-producer.ts";
import { tierBoundsMs } from "./tiers.ts";
import { declareGroup } from "./topology.ts";
import type { TopicInfo, Topics } from "./topics.ts";

const acksOf = { none: 0, accepted: 1, replicated: -1 } as const satisfies Record<
  OutgoingMessage["durability"],
  Acks
>;
/** For the head of a batch, and for what sizes here may be short of. */
const batchOverhead = 4_096;

/** Chooses a partition among so many. */
type Choose = (partitions: number) => number;

export class Publisher {
  readonly #connection: KafkaConnection;
  readonly #topics: Topics;
  readonly #producers: Readonly<Record<Acks, SerialProducer>>;
  readonly #spread: (topic: string, partitions: number) => number;

  constructor(connection: KafkaConnection, topics: Topics) {
    this.#connection = connection;
    this.#topics = topics;
    const findMissing: FindMissing = (names) => topics.missing(names);
    this.#producers = {
      [-1]: new SerialProducer(connection, -1, findMissing),
      0: new SerialProducer(connection, 0, findMissing),
      1: new SerialProducer(connection, 1, findMissing),
    };
    this.#spread = createSpreader(() => connection.runtime.random("partition"));
  }

  /** One result per message, in order. Never rejects. */
  async publish(batch: readonly OutgoingMessage[]): Promise<readonly PublishResult[]> {
    const results = new Map<OutgoingMessage, PublishResult>();
    const byAcks = new Map<Acks, { outgoing: OutgoingMessage; record: Outbound }[]>();
    for (const outgoing of batch) {
      const located = this.#locate(outgoing);
      const record = located instanceof Promise ? await located : located;
      if ("error" in record) {
        results.set(outgoing, { status: "rejected", error: record.error });
        continue;
      }
      const acks = acksOf[outgoing.durability];
      const items = byAcks.get(acks) ?? [];
      if (items.length === 0) byAcks.set(acks, items);
      items.push({ outgoing, record });
    }
    await Promise.all(
      Array.from(byAcks, async ([acks, items]) => {
        const stored = await this.send(
          acks,
          items.map(({ record }) => record),
        );
        items.forEach(({ outgoing }, i) => results.set(outgoing, resultOf(outgoing, stored[i] as Stored)));
      }),
    );
    return batch.map((outgoing) => results.get(outgoing) as PublishResult);
  }

  /** Sends records to where they belong. What was known of a topic that refused one is forgotten. */
  async send(acks: Acks, records: readonly Outbound[]): Promise<readonly Stored[]> {
    const results = await this.#producers[acks].send(records);
    results.forEach(({ status }, i) => {
      if (status !== "stored") this.#topics.forget((records[i] as Outbound).topic);
    });
    return results;
  }

  /** A record for a topic that is there or is made by `declare`. Rejects with the library's error. */
  async address(
    topic: string,
    parts: RecordParts,
    choose: Choose,
    declare?: () => Promise<unknown>,
  ): Promise<Outbound> {
    let info = this.#topics.known(topic) ?? (await this.#topics.ask(topic));
    if (info === undefined && declare !== undefined) {
      await declare();
      info = await this.#topics.ask(topic);
    }
    if (info !== undefined) return this.#record(topic, parts, choose, info);
    throw new TransportError(
      "ERR_DESTINATION",
      `topic "${topic}" does not exist. Declare it: bus.declare({ topics }).`,
    );
  }

  async close(): Promise<void> {
    await Promise.all(Object.values(this.#producers).map((producer) => producer.close()));
  }

  /** Where it goes; at once when the topic is known. */
  #locate({
    destination,
    message,
  }: OutgoingMessage): Outbound | Promise<Outbound | { error: MessagingError }> {
    const topic = this.#topicOf(destination);
    const { key } = message;
    const choose: Choose =
      key === undefined
        ? (partitions) => this.#spread(topic, partitions)
        : (partitions) => partitionOfKey(key, partitions);
    const parts = destination.dead === true ? deadLetterOf(destination, message) : toRecord(message);
    const known = this.#topics.known(topic);
    if (known !== undefined) return this.#record(topic, parts, choose, known);
    return this.address(topic, parts, choose, this.#declarerOf(destination)).catch((cause: unknown) => ({
      error: kafkaError(`cannot publish to topic "${topic}"`, cause, "ERR_CONNECTION_LOST"),
    }));
  }

  #topicOf({ topic, group, dead }: Destination): string {
    const { names } = this.#connection;
    if (group === undefined) return names.topic(topic.name);
    // For a group alone a message waits nowhere: the smallest retry topic hands it over at once.
    return dead === true
      ? names.dead(topic.name, group)
      : names.retry(topic.name, group, tierBoundsMs[0] as number);
  }

  /** A group's own topics may be missing where only a relay runs, without the group's consumers. */
  #declarerOf({ topic, group }: Destination): (() => Promise<unknown>) | undefined {
    if (group === undefined) return undefined;
    return () => declareGroup(this.#connection, this.#topics, { topic, group }, 0);
  }

  #record(topic: string, parts: RecordParts, choose: Choose, info: TopicInfo): Outbound {
    const timestamp = String(Math.floor(this.#connection.runtime.now()));
    return {
      topic,
      partition: choose(info.partitions),
      message: { ...parts, timestamp },
      size: sizeOf(parts),
      limit: Math.max(1, info.maxBatchBytes - batchOverhead),
    };
  }
}

/**
 * The record key of a dead letter. A redriven message that fails again is another letter: removing the first, which comes
 * after the redrive, must not remove the second.
 */
export function letterKey(topic: string, position: string, message: WireMessage): string {
  return `${headerCount(message.headers, header.redrives)}:${idOf(topic, position, message)}`;
}

function deadLetterOf({ topic }: Destination, message: WireMessage): RecordParts {
  return asDeadLetter(toRecord(message), letterKey(topic.name, "", message));
}

function resultOf({ durability }: OutgoingMessage, stored: Stored): PublishResult {
  if (stored.status === "stored") return { status: "accepted", durability };
  return { status: stored.status === "refused" ? "rejected" : "unknown", error: stored.error };
}
