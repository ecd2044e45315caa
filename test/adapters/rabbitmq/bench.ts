/** What the tests of the RabbitMQ adapter share: a server, adapters and raw clients on it, all closed after the test. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import amqplib, { type ChannelModel, type Channel, type ConfirmChannel } from "amqplib";
import { createBus, type Bus, type BusEvent, type BusOptions } from "postrider";
import { rabbitmq, type RabbitmqOptions } from "postrider/rabbitmq";
import { onTestFinished } from "vitest";
import { broker, type Broker } from "../../../scripts/brokers/index.ts";
import { nodeRuntime } from "../../../src/clock.ts";
import { createNames } from "../../../src/names.ts";
import type { Adapter, DeliverySink, RawDelivery, SubscribeSpec } from "../../../src/spi.ts";
import { type FaultProxy, startFaultProxy } from "../../support/fault-proxy.ts";

const folder = mkdtempSync(join(tmpdir(), "postrider-rabbitmq-test-"));

/** An instance of its own: these tests freeze it, and others kill theirs. */
export const server: Broker = withEnvironment(
  { POSTRIDER_BROKERS_DIR: folder, POSTRIDER_RABBITMQ_PORT: "23672" },
  () => broker("rabbitmq"),
);

export async function startServer(): Promise<void> {
  await server.up();
}

export async function stopServer(): Promise<void> {
  await server.down();
  rmSync(folder, { recursive: true, force: true });
}

/** `rabbitmqctl` of our own instance; `undefined` where the server is not a process of this machine. */
export function controller(): ((...args: readonly string[]) => void) | undefined {
  const program = "/usr/lib/rabbitmq/bin/rabbitmqctl";
  if (server.pid() === undefined || !existsSync(program)) return undefined;
  const env = {
    PATH: process.env["PATH"],
    HOME: join(folder, "rabbitmq"),
    ERL_EPMD_PORT: `${Number(new URL(server.url).port) + 2}`,
    ERL_EPMD_ADDRESS: "127.0.0.1",
    RABBITMQ_NODENAME: "postrider@localhost",
    RABBITMQ_CONF_ENV_FILE: "/dev/null",
  };
  return (...args) => void execFileSync(program, args, { env, stdio: "ignore" });
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

/** A proxy in front of the broker, and the URL that leads through it. */
export async function throughProxy(): Promise<FaultProxy & { readonly url: string }> {
  const { hostname, port } = new URL(server.url);
  const proxy = await startFaultProxy({ target: { host: hostname, port: Number(port) } });
  onTestFinished(() => proxy.close());
  return { ...proxy, url: `amqp://127.0.0.1:${proxy.port}` };
}

/** A bus on the broker and every event of it. */
export function openBus(
  options: Partial<RabbitmqOptions> = {},
  busOptions: BusOptions = {},
): { readonly bus: Bus; readonly events: BusEvent[] } {
  const events: BusEvent[] = [];
  const url = options.urls === undefined ? { url: options.url ?? server.url } : {};
  const bus = createBus({
    ...busOptions,
    adapter: rabbitmq({ ...options, ...url }),
    onEvent: (event) => events.push(event),
  });
  onTestFinished(() => bus.close({ timeout: 0 }));
  return { bus, events };
}

/** A connected adapter, to be spoken to as the core does. */
export async function openAdapter(
  options: Partial<RabbitmqOptions> = {},
): Promise<{ readonly adapter: Adapter; readonly events: BusEvent[] }> {
  const events: BusEvent[] = [];
  const adapter = rabbitmq({ url: server.url, ...options });
  onTestFinished(() => adapter.close());
  await adapter.connect({
    runtime: nodeRuntime,
    names: createNames(""),
    prefix: "",
    emit: (event) => events.push(event),
  });
  return { adapter, events };
}

/** Takes down what an adapter hands over. */
export function collect(onDeliver: DeliverySink["deliver"] = () => undefined): DeliverySink & {
  readonly delivered: RawDelivery[];
  readonly gone: RawDelivery[];
  texts(): string[];
} {
  const delivered: RawDelivery[] = [];
  const gone: RawDelivery[] = [];
  return {
    delivered,
    gone,
    deliver(deliveries) {
      delivered.push(...deliveries);
      onDeliver(deliveries);
    },
    lost: (deliveries) => void gone.push(...deliveries),
    texts: () => delivered.map(textOf),
  };
}

/** A subscription to a new topic. */
export function specOf(name: string, more: Partial<SubscribeSpec> = {}): SubscribeSpec {
  const topic = { name: unique(name), partitions: 1, keyed: false };
  return {
    topic,
    group: "g",
    order: "none",
    prefetch: 10,
    leaseMs: 30_000,
    maxRetryDelayMs: 60_000,
    ...more,
  };
}

/** Sends texts straight to the queue of a group. */
export async function fill(spec: SubscribeSpec, texts: readonly string[]): Promise<void> {
  const raw = await rawConfirmChannel();
  for (const text of texts)
    raw.sendToQueue(`${spec.topic.name}--${spec.group}`, Buffer.from(text), { persistent: true });
  await raw.waitForConfirms();
}

export const numbered = (count: number): string[] => Array.from({ length: count }, (_, i) => `m${i}`);

export function textOf({ message }: Pick<RawDelivery, "message">): string {
  return Buffer.from(message.body ?? []).toString();
}

/** Plain amqplib, as an application that knows nothing of us would use it. */
export async function rawChannel(): Promise<Channel> {
  const channel = await (await rawConnection()).createChannel();
  channel.on("error", () => undefined);
  return channel;
}

export async function rawConfirmChannel(): Promise<ConfirmChannel> {
  return (await rawConnection()).createConfirmChannel();
}

async function rawConnection(): Promise<ChannelModel> {
  const connection = await amqplib.connect(server.url);
  connection.on("error", () => undefined);
  onTestFinished(() => connection.close().catch(() => undefined));
  return connection;
}
