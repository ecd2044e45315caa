/** What the tests of the Redis adapter share: a server, adapters and raw clients on it, all closed after the test. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { createBus, type Bus, type BusEvent, type BusOptions } from "postrider";
import { redis, type RedisOptions } from "postrider/redis";
import { eventually } from "postrider/testing";
import { expect, onTestFinished } from "vitest";
import { broker, type Broker } from "../../../scripts/brokers/index.ts";
import { nodeRuntime } from "../../../src/clock.ts";
import { createNames } from "../../../src/names.ts";
import type {
  Adapter,
  DeliverySink,
  OutgoingMessage,
  RawDelivery,
  SubscribeSpec,
  Subscription,
  WireMessage,
} from "../../../src/spi.ts";
import { type FaultProxy, startFaultProxy } from "../../support/fault-proxy.ts";

const folder = mkdtempSync(join(tmpdir(), "postrider-redis-test-"));

/** An instance of its own: these tests empty it and change its settings. */
export const server: Broker = instance("server", 23379);
/** A second one, to be a replica of the first. */
export const second: Broker = instance("second", 23382);

function instance(name: string, port: number): Broker {
  const before = { ...process.env };
  Object.assign(process.env, {
    POSTRIDER_BROKERS_DIR: join(folder, name),
    POSTRIDER_REDIS_PORT: String(port),
  });
  try {
    return broker("redis");
  } finally {
    process.env = before;
  }
}

export async function startServer(): Promise<void> {
  await server.up();
}

export async function stopServer(): Promise<void> {
  await Promise.all([server.down(), second.down()]);
  rmSync(folder, { recursive: true, force: true });
}

/** A name nobody else uses. */
export function unique(what: string): string {
  return `${what}-${nodeRuntime.newId().slice(-12)}`;
}

/** A proxy in front of the server, and the URL that leads through it. */
export async function throughProxy(): Promise<FaultProxy & { readonly url: string }> {
  const { hostname, port } = new URL(server.url);
  const proxy = await startFaultProxy({ target: { host: hostname, port: Number(port) } });
  onTestFinished(() => proxy.close());
  return { ...proxy, url: `redis://127.0.0.1:${proxy.port}` };
}

/** A bus on the server and every event of it. */
export function openBus(
  options: Partial<RedisOptions> = {},
  busOptions: BusOptions = {},
): { readonly bus: Bus; readonly events: BusEvent[] } {
  const events: BusEvent[] = [];
  const bus = createBus({
    ...busOptions,
    adapter: redis({ url: server.url, ...options }),
    onEvent: (event) => events.push(event),
  });
  onTestFinished(() => bus.close({ timeout: 0 }));
  return { bus, events };
}

/** A connected adapter, to be spoken to as the core does. */
export async function openAdapter(
  options: Partial<RedisOptions> = {},
): Promise<{ readonly adapter: Adapter; readonly events: BusEvent[] }> {
  const events: BusEvent[] = [];
  const adapter = redis({ url: server.url, ...options });
  onTestFinished(() => adapter.close());
  await adapter.connect({
    runtime: nodeRuntime,
    names: createNames(""),
    prefix: "",
    emit: (event) => events.push(event),
  });
  return { adapter, events };
}

export interface Collector extends DeliverySink {
  readonly delivered: RawDelivery[];
  readonly gone: RawDelivery[];
  texts(): string[];
  /** Resolves with all of them once there are `count`. */
  atLeast(count: number): Promise<readonly RawDelivery[]>;
}

/** Takes down what an adapter hands over. */
export function collect(): Collector {
  const delivered: RawDelivery[] = [];
  const gone: RawDelivery[] = [];
  return {
    delivered,
    gone,
    deliver: (deliveries) => void delivered.push(...deliveries),
    lost: (deliveries) => void gone.push(...deliveries),
    texts: () => delivered.map(textOf),
    async atLeast(count) {
      await eventually(() => expect(delivered.length).toBeGreaterThanOrEqual(count));
      return delivered;
    },
  };
}

export function textOf({ message }: Pick<RawDelivery, "message">): string {
  return Buffer.from(message.body ?? []).toString();
}

/** A subscription with what a consumer of one test needs. */
export async function subscribe(
  adapter: Adapter,
  topic: string,
  sink: DeliverySink,
  { partitions, ...options }: Partial<Omit<SubscribeSpec, "topic">> & { readonly partitions?: number } = {},
): Promise<Subscription> {
  const subscription = await adapter.subscribe(
    {
      topic: topicOf(topic, partitions),
      group: "g",
      order: "none",
      prefetch: 100,
      leaseMs: 30_000,
      maxRetryDelayMs: 60_000,
      ...options,
    },
    sink,
  );
  onTestFinished(() => subscription.close());
  return subscription;
}

export function topicOf(name: string, partitions = 1): SubscribeSpec["topic"] {
  return { name, partitions, keyed: true };
}

/** A message with a body of text. */
export function message(text: string, more: Partial<WireMessage> = {}): WireMessage {
  return {
    attributes: { id: nodeRuntime.newId() },
    headers: {},
    key: undefined,
    body: Buffer.from(text),
    ...more,
  };
}

export function outgoing(
  topic: string,
  wire: WireMessage,
  more: Partial<OutgoingMessage> = {},
): OutgoingMessage {
  return {
    destination: { topic: topicOf(topic) },
    message: wire,
    durability: "replicated",
    requireRoute: true,
    ...more,
  };
}

/** Publishes texts and makes sure that they were stored. */
export async function publish(adapter: Adapter, topic: string, ...texts: readonly string[]): Promise<void> {
  const results = await adapter.publish(texts.map((text) => outgoing(topic, message(text))));
  expect(results.map(({ status }) => status)).toEqual(texts.map(() => "accepted"));
}

/** Publishes steps such as `"a1"`: key and number, in order. */
export async function publishSteps(
  adapter: Adapter,
  topic: string,
  ...steps: readonly string[]
): Promise<void> {
  const wires = steps.map((step) =>
    message(step, {
      attributes: { id: nodeRuntime.newId(), partitionkey: step.slice(0, 1) },
      key: step.slice(0, 1),
    }),
  );
  const results = await adapter.publish(wires.map((wire) => outgoing(topic, wire)));
  expect(results.map(({ status }) => status)).toEqual(steps.map(() => "accepted"));
}

/** Plain ioredis, as an application that knows nothing of us would use it. */
export function rawClient(url = server.url): Redis {
  const client = new Redis(url);
  onTestFinished(() => client.disconnect());
  return client;
}

/** What is pending in a stream's group: id, consumer, hand-overs. */
export async function pendingOf(
  client: Redis,
  stream: string,
  group = "g",
): Promise<{ readonly id: string; readonly consumer: string; readonly count: number }[]> {
  const entries = (await client.xpending(stream, group, "-", "+", 1_000)) as [
    string,
    string,
    number,
    number,
  ][];
  return entries.map(([id, consumer, , count]) => ({ id, consumer, count }));
}
