/**
 * The reference adapter: a broker in the memory of this process. For tests and as the plainest reading of the port; it
 * passes the whole conformance suite, and faults can be injected.
 */
import { type Adapter, type Capabilities, checkKeys } from "../../src/spi.ts";
import { createConnection } from "./connection.ts";
import { openCursor } from "./dead-letters.ts";
import type { MemoryFaults } from "./faults.ts";
import { maxDelayMs, publishBatch } from "./publisher.ts";
import { MemorySubscription } from "./subscriber.ts";

export type { MemoryFaults, MemoryOperation } from "./faults.ts";

export interface MemoryOptions {
  /** Adapters with one name share a broker within the process. Default: a broker of its own. */
  readonly name?: string | undefined;
}

export interface MemoryAdapter extends Adapter {
  /** Faults to inject. */
  readonly faults: MemoryFaults;
}

const capabilities: Capabilities = {
  persistent: false,
  server: false,
  retains: true,
  ordering: "key",
  deliveryCount: true,
  settlement: "atomic",
  dedupe: true,
  durability: ["none", "accepted", "replicated"],
  maxDelayMs,
  cancel: true,
  maxBytes: 64 * 1_048_576,
};

/**
 * A broker in memory. Everything is lost with the process.
 *
 * @example
 * await using bus = createBus({ adapter: memory() });
 */
export function memory(options: MemoryOptions = {}): MemoryAdapter {
  checkKeys("memory", options, ["name"]);
  const connection = createConnection(options.name);
  const subscriptions = new Set<MemorySubscription>();
  return {
    name: "memory",
    capabilities,
    publishLimits: { maxBatch: 1_000, maxInFlight: 1 },
    faults: connection.faults,
    connect: (context) => connection.connect(context),
    async declare({ topics, groups }) {
      const performed = await connection.perform("declare", () => {
        for (const topic of topics) connection.broker.declareTopic(connection.nameOf(topic));
        for (const { topic, group } of groups)
          connection.broker.declareGroup(connection.nameOf(topic), group);
      });
      if (performed.kind !== "done") throw performed.error;
    },
    publish: (batch) => publishBatch(connection, batch),
    async cancel(topic, id) {
      const performed = await connection.perform("cancel", () => {
        const now = connection.context.runtime.monotonic();
        return connection.broker.cancel(connection.nameOf(topic), id, now);
      });
      if (performed.kind !== "done") throw performed.error;
      return performed.value;
    },
    async subscribe(spec, sink) {
      const performed = await connection.perform(
        "subscribe",
        () => new MemorySubscription(connection, spec, sink, (closed) => subscriptions.delete(closed)),
      );
      if (performed.kind !== "done") throw performed.error;
      subscriptions.add(performed.value);
      return performed.value;
    },
    openDeadLetters: (spec) => Promise.resolve(openCursor(connection.group(spec))),
    health: () => ({ connected: connection.connected }),
    async close() {
      for (const subscription of subscriptions) await subscription.close();
      connection.close();
    },
  };
}
