/** Kafka, through kafkajs: log-based topics, consumer groups, retry topics and dead letters per group. */
import type { Adapter, Capabilities } from "../../src/spi.ts";
import { KafkaConnection } from "./connection.ts";
import { openCursor } from "./dead-letters.ts";
import { type KafkaOptions, checkOptions } from "./options.ts";
import { Publisher } from "./publisher.ts";
import { KafkaSubscription } from "./subscriber.ts";
import { Topics } from "./topics.ts";
import { declareTopology } from "./topology.ts";

export type { KafkaOptions, KafkaSasl } from "./options.ts";

const dayMs = 86_400_000;

/**
 * Kafka 2.1 and later; tested on 3.9 and 4.3. Needs the package `kafkajs`. Throws `ERR_CONFIG` on a wrong option; connects when
 * the bus does.
 *
 * A topic that somebody deletes and makes again is begun anew, with a warning, when a group's place lies beyond its end. If it
 * has grown past that place before the group looks, what lies below is passed over unseen: stop the consumers first.
 *
 * @example
 * createBus({ adapter: kafka({ url: "kafka://localhost:9092" }) });
 * @example
 * kafka({ brokers: ["b1:9093", "b2:9093"], tls: true, sasl: { mechanism: "scram-sha-512", username, password } });
 */
export function kafka(options: KafkaOptions): Adapter {
  const checked = checkOptions(options);
  const connection = new KafkaConnection(checked);
  const topics = new Topics(connection);
  const publisher = new Publisher(connection, topics);
  const subscriptions = new Set<KafkaSubscription>();
  let closed: Promise<void> | undefined;

  const close = async (): Promise<void> => {
    await Promise.all(Array.from(subscriptions, (subscription) => subscription.close()));
    await publisher.close();
    await connection.close();
  };

  return {
    name: "kafka",
    capabilities: capabilitiesOf(checked.maxMessageBytes),
    // One call at a time keeps the order of calls; within one, the producer makes its own requests.
    publishLimits: { maxBatch: 1_000, maxInFlight: 1 },
    connect: (context) => connection.connect(context),
    declare: (topology) => declareTopology(connection, topics, topology),
    publish: (batch) => publisher.publish(batch),
    async subscribe(spec, sink) {
      const forget = (subscription: KafkaSubscription): void => void subscriptions.delete(subscription);
      const subscription = new KafkaSubscription({ connection, topics, publisher }, spec, sink, forget);
      subscriptions.add(subscription);
      try {
        await subscription.start();
      } catch (error) {
        await subscription.close();
        throw error;
      }
      return subscription;
    },
    openDeadLetters: (spec) => openCursor({ connection, publisher }, spec),
    health: () => connection.health(),
    close() {
      closed ??= close();
      return closed;
    },
  };
}

function capabilitiesOf(maxBytes: number): Capabilities {
  return {
    persistent: true,
    server: true,
    retains: true,
    ordering: "key",
    deliveryCount: true,
    settlement: "copy",
    dedupe: false,
    durability: ["none", "accepted", "replicated"],
    maxDelayMs: 365 * dayMs,
    cancel: false,
    maxBytes,
  };
}
