/**
 * RabbitMQ, by AMQP 0-9-1 and the npm package `amqplib`. Quorum queues, confirmed publishes, delays of any length held by the
 * server. Needs RabbitMQ 3.10 or later.
 */
import {
  type Adapter,
  type AdapterContext,
  type Capabilities,
  LifecycleError,
  type MessagingError,
  type Subscription,
} from "../../src/spi.ts";
import { type Broker, connectBroker } from "./broker.ts";
import { DeadLetterReader } from "./dead-letters.ts";
import { maxDelayMs } from "./delay.ts";
import { closed } from "./errors.ts";
import { type RabbitmqOptions, checkOptions } from "./options.ts";
import { RabbitmqSubscription } from "./subscriber.ts";

export type { RabbitmqOptions } from "./options.ts";

const capabilities: Capabilities = {
  persistent: true,
  server: true,
  retains: false,
  ordering: "key",
  deliveryCount: true,
  settlement: "copy",
  dedupe: false,
  durability: ["none", "accepted", "replicated"],
  maxDelayMs,
  cancel: false,
  // `max_message_size` of RabbitMQ 4 by default; above it the server closes the channel.
  maxBytes: 16 * 1_048_576,
};

/**
 * An adapter for RabbitMQ. Connects when the bus does, with one connection to publish and one to consume, and mends both by
 * itself. Throws `ConfigurationError` `ERR_CONFIG` on an option that is unknown or wrong.
 *
 * On the server: a topic is a topic exchange, a group an exchange and a quorum queue `<topic>--<group>` behind it, its dead
 * letters the quorum queue `<topic>--<group>--dead`; delays are held by the quorum queues `postrider--delay-…`. All are made
 * when they may be needed and never removed. The routing key of a message is `<topic>.<partition>`; bind a queue of your
 * own to the topic's exchange with `#`.
 *
 * What falls due while a server starts may come three minutes late: RabbitMQ tries a hop between queues again only after
 * its `dead_letter_worker_publisher_confirm_timeout`, 180,000 ms unless its `advanced.config` says otherwise. A few
 * seconds are enough on a server of any size.
 *
 * Deliveries given back when a consumer closes count as hand-overs before RabbitMQ 4.3, and so raise `attempt`.
 *
 * With `order: "key"` the instances of a group share the topic's `partitions`, each of which is a quorum queue more,
 * `<topic>--<group>--p0`, …, consumed by one instance at a time. One that joins gets its share within about a second, as soon
 * as what runs of a partition has ended; a partition where nothing ends for 30 seconds, as when a message is tried again and
 * again, stays for another five minutes. What an instance had that goes, the others have within about a second.
 *
 * A quorum queue costs the server memory and writes, used or not, and the default is 8 partitions: with `partitions: 1` an
 * ordered group has only its own queue, one instance works, and the others stand by. All instances of a group should
 * define the same number. Another number is taken up when they start: nothing is forgotten, and keys that are in other
 * partitions then may be out of order once. A group that was ordered is refused without order (`ERR_TOPOLOGY`), as its
 * messages are elsewhere; the other way round, the ordered instances stand by until the others are gone.
 *
 * @example
 * await using bus = createBus({ adapter: rabbitmq({ url: "amqp://user:password@localhost:5672" }) });
 */
export function rabbitmq(options: RabbitmqOptions): Adapter {
  const settings = checkOptions(options);
  const subscriptions = new Set<Subscription>();
  const closing = new AbortController();
  let broker: Broker | undefined;
  let connecting: Promise<Broker> | undefined;

  const connected = (): Broker => {
    closing.signal.throwIfAborted();
    if (broker === undefined)
      throw new LifecycleError("ERR_NOT_STARTED", "the RabbitMQ adapter is not connected");
    return broker;
  };

  const connect = async (context: AdapterContext): Promise<void> => {
    closing.signal.throwIfAborted();
    if (broker !== undefined) return;
    connecting ??= connectBroker(settings, context, closing.signal).finally(() => (connecting = undefined));
    broker = await connecting;
  };

  return {
    name: "rabbitmq",
    capabilities,
    publishLimits: {
      maxBatch: Math.max(1, Math.ceil(settings.confirmWindow / 10)),
      maxInFlight: 10,
    },
    connect,
    declare: async (topology) => connected().declarations.declare(topology),
    async publish(batch) {
      try {
        return await connected().publisher.publish(batch);
      } catch (error) {
        return batch.map(() => ({ status: "rejected", error: error as MessagingError }));
      }
    },
    async subscribe(spec, sink) {
      const parts = connected();
      const onClosed = (ended: Subscription): void => void subscriptions.delete(ended);
      const subscription = new RabbitmqSubscription({ ...parts, onClosed }, spec, sink);
      subscriptions.add(subscription);
      try {
        await subscription.start();
      } catch (error) {
        await subscription.close();
        throw error;
      }
      return subscription;
    },
    async openDeadLetters(spec) {
      const { context, link, declarations } = connected();
      const session = await link.ready();
      await declarations.ensureGroup(session, spec);
      const { dead } = declarations.names(spec);
      return DeadLetterReader.open(context, session, spec, dead);
    },
    health: () => broker?.health() ?? { connected: false },
    async close() {
      closing.abort(closed());
      // Whoever asked to connect is told; here it only matters that nothing is left of it.
      await connecting?.catch(() => undefined);
      await Promise.all(Array.from(subscriptions, (subscription) => subscription.close()));
      await broker?.close();
    },
  };
}
