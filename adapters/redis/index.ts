/**
 * Redis Streams (Redis 6.2 or newer, Valkey) through ioredis. One stream per topic, groups of consumers on it; everything
 * that settles is one Lua script, so a retry or a dead letter is one step with its acknowledgement. An ordered group is
 * divided into partitions, which its instances share under leases: `partitions.ts`, `membership.ts`, `owned.ts`.
 */
import type { Adapter, Capabilities } from "../../src/spi.ts";
import { RedisConnection } from "./connection.ts";
import { openCursor } from "./dead-letters.ts";
import { declareGroup, declareTopic } from "./groups.ts";
import { type RedisOptions, checkOptions } from "./options.ts";
import { createPublisher } from "./publisher.ts";
import { RedisSubscription } from "./subscriber.ts";

export type { RedisOptions } from "./options.ts";

const capabilities: Capabilities = {
  persistent: true,
  server: true,
  retains: true,
  ordering: "key",
  deliveryCount: true,
  settlement: "atomic",
  dedupe: true,
  durability: ["none", "accepted", "replicated"],
  maxDelayMs: 365 * 86_400_000,
  cancel: false,
  maxBytes: 64 * 1_048_576,
};

/**
 * Redis Streams. Needs the package `ioredis`. What the server can promise is in its settings: `appendonly yes`,
 * `appendfsync always` and `maxmemory-policy noeviction` are looked for when it connects, with a warning each.
 *
 * With `order: "key"` the instances of a group share the topic's partitions evenly. One that joins gets its part within
 * about a second, of each partition as soon as nothing of it is being handled; those of one that goes without a word are
 * taken over after its `lease`. The number of partitions is the one the group was first read with, until all its instances
 * stop; a warning says so when it is another than the topic's.
 *
 * @example
 * await using bus = createBus({ adapter: redis({ url: "redis://localhost:6379" }) });
 */
export function redis(options: RedisOptions): Adapter {
  const connection = new RedisConnection(checkOptions(options));
  const publisher = createPublisher(connection);
  const subscriptions = new Set<RedisSubscription>();
  return {
    name: "redis",
    capabilities,
    // Calls go out over one connection and are carried out in turn, so two of them keep their order.
    publishLimits: { maxBatch: 250, maxInFlight: 2 },
    connect: (context) => connection.connect(context),
    async declare({ topics, groups }) {
      for (const topic of topics) await declareTopic(connection, topic);
      for (const group of groups) await declareGroup(connection, group);
    },
    publish: (batch) => publisher.publish(batch),
    async subscribe(spec, sink) {
      const subscription = new RedisSubscription(connection, spec, sink, (closed) =>
        subscriptions.delete(closed),
      );
      await subscription.start();
      subscriptions.add(subscription);
      return subscription;
    },
    openDeadLetters: (spec) => openCursor(connection, spec),
    health: () => connection.health(),
    async close() {
      await Promise.all(Array.from(subscriptions, (subscription) => subscription.close()));
      connection.close();
    },
  };
}
