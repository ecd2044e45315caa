/** What is measured of everybody who publishes, and how. */
import type { Adapter } from "postrider/spi";

/** A message before anybody has encoded it: about 300 bytes of JSON. */
export interface Payload {
  readonly n: number;
  readonly key: string;
  readonly text: string;
}

/** A client used without us, as a careful user would: persistent, confirmed, pipelined. */
export interface RawWay {
  readonly name: string;
  /** Resolves when all are confirmed. */
  publish(bodies: readonly string[]): Promise<void>;
}

export interface RawBroker {
  readonly name: string;
  readonly adapter: () => Adapter;
  /** Less and less of what our adapter does is left out. The first is the least a message can be. */
  readonly ways: readonly RawWay[];
  /** What our adapter does and no way of the raw client does. */
  readonly note?: string;
  /** Removes what was published. */
  clear(): Promise<void>;
  close(): Promise<void>;
}

/** What CloudEvents asks of every message, ours included; made anew for each, as its sender would. */
export function attributesOf(topic: string): Readonly<Record<string, string>> {
  return {
    specversion: "1.0",
    id: crypto.randomUUID(),
    source: "bench",
    type: topic,
    time: new Date().toISOString(),
  };
}

const payloadOf = (n: number): Payload => ({ n, key: `k${n % 5_000}`, text: "x".repeat(260) });

const batchSize = 500;
/** While one batch is confirmed the next one is written. */
const batchesAtOnce = 2;

/** Sends `count` messages, batch by batch, as many batches at once as pays. */
export async function inBatches(
  count: number,
  send: (first: number, count: number) => Promise<unknown>,
): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) {
      const first = next;
      next += batchSize;
      await send(first, Math.min(batchSize, count - first));
    }
  };
  await Promise.all(Array.from({ length: batchesAtOnce }, lane));
}

export interface Cost {
  readonly perSecond: number;
  /** CPU of this process, in microseconds per message. */
  readonly cpuUs: number;
}

/** What it costs to send `count` messages. */
export async function measure(
  count: number,
  send: (payloads: readonly Payload[]) => Promise<unknown>,
): Promise<Cost> {
  const cpu = process.cpuUsage();
  const start = performance.now();
  await inBatches(count, (first, size) => send(Array.from({ length: size }, (_, i) => payloadOf(first + i))));
  const seconds = (performance.now() - start) / 1_000;
  const { user, system } = process.cpuUsage(cpu);
  return { perSecond: count / seconds, cpuUs: (user + system) / count };
}
