/** What the tests of the Kafka adapter share: a broker, adapters and raw clients on it, all closed after the test. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import kafkajs, {
  type Admin,
  type Kafka,
  type KafkaMessage,
  type Producer,
  type ProducerConfig,
} from "kafkajs";
import { createBus, type Bus, type BusEvent, type BusOptions } from "postrider";
import { kafka, type KafkaOptions } from "postrider/kafka";
import { onTestFinished } from "vitest";
import { type Broker, chosenBroker } from "../../../scripts/brokers/index.ts";
import { calmIdleLoop } from "../../../adapters/kafka/idle-loop.ts";
import { nodeRuntime } from "../../../src/clock.ts";
import { createNames } from "../../../src/names.ts";
import type {
  Adapter,
  OutgoingMessage,
  RawDelivery,
  SubscribeSpec,
  Subscription,
  TopicSpec,
  WireMessage,
} from "../../../src/spi.ts";
import { type FaultProxy, startFaultProxy } from "../../support/fault-proxy.ts";

// The raw clients here would wake the process every millisecond too.
calmIdleLoop(nodeRuntime);

const folder = mkdtempSync(join(tmpdir(), "postrider-kafka-test-"));

/** An instance of its own: these tests kill it, and others kill theirs. */
export const server: Broker = withEnvironment(
  { POSTRIDER_BROKERS_DIR: folder, POSTRIDER_KAFKA_PORT: "23092", POSTRIDER_KAFKA_3_9_PORT: "23192" },
  () => chosenBroker("kafka"),
);

export async function startServer(): Promise<void> {
  await server.up();
}

export async function stopServer(): Promise<void> {
  await server.down();
  rmSync(folder, { recursive: true, force: true });
}

function withEnvironment<T>(variables: Readonly<Record<string, string>>, act: () => T): T {
  const before = { ...process.env };
  Object.assign(process.env, variables);
  try {
    return act();
  } finally {
    process.env = before;
  }
}

/** A name nobody else uses. */
export function unique(what: string): string {
  return `${what}-${nodeRuntime.newId().slice(-12)}`;
}

/** `host:port` as the client wants it. */
const address = (): string => new URL(server.url).host;

/** A proxy on the port that the broker tells clients who come through it, and the URL that leads there. */
export async function throughProxy(): Promise<FaultProxy & { readonly url: string }> {
  const { listen, advertised } = server.proxied ?? assert.fail("the broker is not ours");
  const proxy = await startFaultProxy({ target: { host: "127.0.0.1", port: listen }, port: advertised });
  onTestFinished(() => proxy.close());
  return { ...proxy, url: `kafka://127.0.0.1:${advertised}` };
}

/** A bus on the broker and every event of it. */
export function openBus(
  options: Partial<KafkaOptions> = {},
  busOptions: BusOptions = {},
): { readonly bus: Bus; readonly events: BusEvent[] } {
  const events: BusEvent[] = [];
  const adapter = kafka({ ...(options.brokers === undefined ? { url: server.url } : {}), ...options });
  const onEvent = (event: BusEvent): void => {
    events.push(event);
    busOptions.onEvent?.(event);
  };
  const bus = createBus({ ...busOptions, adapter, onEvent });
  onTestFinished(() => bus.close({ timeout: 0 }));
  return { bus, events };
}

/** A connected adapter, to be spoken to as the core does. */
export async function openAdapter(
  options: Partial<KafkaOptions> = {},
): Promise<{ readonly adapter: Adapter; readonly events: BusEvent[] }> {
  const events: BusEvent[] = [];
  const adapter = kafka({ ...(options.brokers === undefined ? { url: server.url } : {}), ...options });
  onTestFinished(() => adapter.close());
  await adapter.connect({
    runtime: nodeRuntime,
    names: createNames(""),
    prefix: "",
    emit: (event) => events.push(event),
  });
  return { adapter, events };
}

/** A topic nobody else uses, declared. */
export async function declared(
  adapter: Adapter,
  partitions = 1,
  groups: readonly string[] = [],
): Promise<TopicSpec> {
  const topic: TopicSpec = { name: unique("topic"), partitions, keyed: false };
  await adapter.declare({ topics: [topic], groups: groups.map((group) => ({ topic, group })) });
  return topic;
}

export function message(id: string, given: Partial<WireMessage> = {}): WireMessage {
  const attributes = { specversion: "1.0", id, source: "test", type: "test" };
  return { attributes, headers: {}, key: undefined, body: Buffer.from(id), ...given };
}

export function outgoing(topic: TopicSpec, id: string, given: Partial<WireMessage> = {}): OutgoingMessage {
  return {
    destination: { topic },
    message: message(id, given),
    durability: "replicated",
    requireRoute: true,
  };
}

/** A subscription that keeps what it is given. */
export interface Taker {
  readonly subscription: Subscription;
  readonly taken: RawDelivery[];
  readonly lost: RawDelivery[];
  ids(): string[];
}

export async function take(
  adapter: Adapter,
  topic: TopicSpec,
  spec: Partial<SubscribeSpec> = {},
  onDelivery: (delivery: RawDelivery, taker: Taker) => unknown = () => undefined,
): Promise<Taker> {
  const taken: RawDelivery[] = [];
  const lost: RawDelivery[] = [];
  const ready = Promise.withResolvers<Taker>();
  const subscription = await adapter.subscribe(
    { topic, group: "g", order: "none", prefetch: 100, leaseMs: 30_000, maxRetryDelayMs: 1_000, ...spec },
    {
      deliver(deliveries) {
        taken.push(...deliveries);
        for (const delivery of deliveries) void ready.promise.then((taker) => onDelivery(delivery, taker));
      },
      lost: (deliveries) => void lost.push(...deliveries),
    },
  );
  const taker: Taker = { subscription, taken, lost, ids: () => taken.map(idOf) };
  ready.resolve(taker);
  return taker;
}

export function idOf(delivery: RawDelivery): string {
  return delivery.message.attributes["id"] ?? "";
}

/** Settles each delivery as handled as soon as it comes. */
export const acking = (delivery: RawDelivery, { subscription }: Taker): unknown =>
  subscription.ack([delivery]);

/** The client itself, silent. */
function rawClient(): Kafka {
  return new kafkajs.Kafka({ brokers: [address()], logLevel: kafkajs.logLevel.NOTHING });
}

export async function rawAdmin(): Promise<Admin> {
  const admin = rawClient().admin();
  await admin.connect();
  onTestFinished(() => admin.disconnect());
  return admin;
}

/** For what is asked again and again. */
async function withAdmin<T>(use: (admin: Admin) => Promise<T>): Promise<T> {
  const admin = rawClient().admin();
  await admin.connect();
  try {
    return await use(admin);
  } finally {
    await admin.disconnect();
  }
}

export async function rawProducer(config: ProducerConfig = {}): Promise<Producer> {
  const createPartitioner = kafkajs.Partitioners.DefaultPartitioner;
  const producer = rawClient().producer({ createPartitioner, ...config });
  await producer.connect();
  onTestFinished(() => producer.disconnect());
  return producer;
}

/** All records of a topic, of all partitions. */
export async function recordsOf(topic: string): Promise<(KafkaMessage & { readonly partition: number })[]> {
  const ends = await withAdmin((admin) => admin.fetchTopicOffsets(topic));
  const expected = ends.reduce((sum, { high, low }) => sum + Number(high) - Number(low), 0);
  const consumer = rawClient().consumer({ groupId: unique("reader"), maxWaitTimeInMs: 50 });
  const records: (KafkaMessage & { readonly partition: number })[] = [];
  const all = Promise.withResolvers<void>();
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      records.push(...batch.messages.map((one) => Object.assign(one, { partition: batch.partition })));
      if (records.length >= expected) all.resolve();
    },
  });
  if (expected > 0) await all.promise;
  await consumer.disconnect();
  return records;
}

/** Committed offsets of a group in a topic by partition; -1 is none. */
export async function committedOf(
  group: string,
  topic: string,
): Promise<{ readonly partition: number; readonly offset: number; readonly metadata: string | null }[]> {
  const [found] = await withAdmin((admin) => admin.fetchOffsets({ groupId: group, topics: [topic] }));
  return (found?.partitions ?? []).map(({ partition, offset, metadata }) => ({
    partition,
    offset: Number(offset),
    metadata,
  }));
}
