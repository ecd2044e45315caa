/**
 * What exists on the server for a topic and its groups: the exchange `<topic>`, per group an exchange and a queue
 * `<topic>--<group>` and the queue of its dead letters, and the exchange through which delayed copies come back.
 *
 * An ordered group has a queue `<topic>--<group>--p0`, … per partition besides. Who declares a group need not know whether it
 * is one: its exchange sends to a partition's queue from the moment that is bound to it, and what no such queue takes, by
 * way of its alternate exchange, to the queue of the group. So nothing is lost or doubled when a group becomes ordered, and
 * what strangers publish arrives as well.
 */
import type { Channel } from "amqplib";
import type { AdapterContext, GroupSpec, MessagingError, TopicSpec, Topology } from "../../src/spi.ts";
import { onThrowAwayChannel } from "./channel.ts";
import type { Link, Session } from "./connection.ts";
import { channelError } from "./errors.ts";

/**
 * Hand-overs after which the server itself takes a message to the dead letters. A safety net below the core's own limit
 * (at most 2000), for a message that kills its process before the core sees it. The same for every consumer, so
 * that no change of options meets a queue declared otherwise.
 */
const deliveryLimit = 10_000;

/** Browsing counts as a hand-over, and since RabbitMQ 4.0 a queue without a limit of its own drops after 20. */
export const noDeliveryLimit = 2_147_483_647;

/** Dead-lettering by the server with confirms: the source keeps the message until the target has it. */
export const surely = { "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish" } as const;

export function quorumQueue(args: Readonly<Record<string, unknown>>): {
  readonly durable: true;
  readonly arguments: object;
} {
  return { durable: true, arguments: { "x-queue-type": "quorum", ...args } };
}

/** The server's names for one group. */
export interface GroupNames {
  readonly queue: string;
  readonly dead: string;
  /** The group's exchange takes everything of its topic. */
  readonly exchange: string;
  /** Takes what the group's exchange has no partition for. */
  readonly rest: string;
}

/** The queue whose owner is the one ordered consumer of `queue`. */
export function lockOf(queue: string): string {
  return `${queue}--owner`;
}

export class Declarations {
  readonly #context: AdapterContext;
  /** Declares where nothing is published, so that an alarm, which blocks publishing connections, cannot hold it up. */
  readonly #link: Link;
  readonly #topics = new Map<string, TopicSpec>();
  readonly #groups = new Map<string, GroupSpec>();
  /** What was declared over which connection. */
  readonly #done = new WeakMap<Session, Map<string, Promise<void>>>();
  readonly #groupsThere = new Set<string>();
  /** Ordered groups, by queue. */
  readonly #partitioned = new Map<string, GroupSpec>();
  /** Queues that were there once. */
  readonly #queuesSeen = new Set<string>();
  readonly #redeclaring = new WeakMap<Session, Promise<void>>();

  constructor(context: AdapterContext, link: Link) {
    this.#context = context;
    this.#link = link;
  }

  /** The exchange a topic is published to. */
  exchange(topic: TopicSpec): string {
    return this.#context.names.topic(topic.name);
  }

  names({ topic, group }: GroupSpec): GroupNames {
    const { names } = this.#context;
    const queue = names.queue(topic.name, group);
    return { queue, dead: names.dead(topic.name, group), exchange: queue, rest: `${queue}--rest` };
  }

  /** A direct exchange: every group's queue is bound to it by its own name. */
  get returns(): string {
    return `${this.#context.prefix}postrider--delay`;
  }

  /** Makes what is missing. Rejects with `ERR_TOPOLOGY` when something of that name is there with other settings. */
  async declare({ topics, groups }: Topology): Promise<void> {
    const session = await this.#link.ready();
    for (const topic of topics) await this.#topic(session, topic);
    for (const group of groups) await this.ensureGroup(session, group);
  }

  /** Declares a group unless this connection has done so. */
  ensureGroup(session: Session, spec: GroupSpec): Promise<void> {
    const { queue } = this.names(spec);
    this.#groups.set(queue, spec);
    return this.once(session, `queue ${queue}`, async () => {
      await this.#lookForLoss(session, spec, queue);
      await onThrowAwayChannel(session, `queue \`${queue}\``, (channel) => this.#declareGroup(channel, spec));
      this.#groupsThere.add(queue);
      this.#queuesSeen.add(queue);
    });
  }

  /**
   * Makes the queues of the partitions unless this connection has done so, and resolves with their names. Those that are there
   * from a time when there were more are among them: what is in them is not to be forgotten. None when there is but one.
   */
  async ensurePartitions(session: Session, spec: GroupSpec): Promise<readonly string[]> {
    const { queue } = this.names(spec);
    const partitions: string[] = [];
    this.#partitioned.set(queue, spec);
    const { partitions: count } = spec.topic;
    for (let i = 0; count > 1 && i < count; i++) partitions.push(partitionOf(queue, i));
    await this.once(session, `partitions of ${queue}`, async () => {
      const [...left] = partitions.entries();
      const declareNext = async (): Promise<void> => {
        for (let next = left.shift(); next !== undefined; next = left.shift()) {
          const [i, partition] = next;
          await this.#lookForLoss(session, spec, partition);
          await onThrowAwayChannel(session, `queue \`${partition}\``, (channel) =>
            this.#declarePartition(channel, spec, i),
          );
          this.#queuesSeen.add(partition);
        }
      };
      // A quorum queue takes its time, and a connection has only so many channels.
      await Promise.all(Array.from({ length: 8 }, declareNext));
    });
    for (let i = partitions.length; await this.exists(session, partitionOf(queue, i)); i++)
      partitions.push(partitionOf(queue, i));
    return partitions;
  }

  /** Whether a group is or was an ordered one, with partitions. */
  isPartitioned(session: Session, spec: GroupSpec): Promise<boolean> {
    return this.exists(session, partitionOf(this.names(spec).queue, 0));
  }

  async #lookForLoss(session: Session, spec: GroupSpec, queue: string): Promise<void> {
    if (this.#queuesSeen.has(queue) && !(await this.exists(session, queue))) this.#reportLoss(spec, queue);
  }

  /** Nobody else would say that what was in a deleted queue is gone. */
  #reportLoss({ topic, group }: GroupSpec, queue: string): void {
    const message = `queue \`${queue}\` was deleted with all that was in it; it is made again, empty`;
    this.#context.emit({ type: "lost", topic: topic.name, group, count: 0, message });
  }

  /** Whether a group was declared, and nobody has missed it since. */
  hasGroup(spec: GroupSpec): boolean {
    return this.#groupsThere.has(this.names(spec).queue);
  }

  /** A group's queue was missed: the next `ensureGroup` makes it again. */
  forgetGroup(spec: GroupSpec): void {
    const { queue } = this.names(spec);
    this.#groupsThere.delete(queue);
    const { session } = this.#link;
    if (session === undefined) return;
    this.#done.get(session)?.delete(`queue ${queue}`);
    this.#done.get(session)?.delete(`partitions of ${queue}`);
  }

  /** Makes everything anew that was ever asked for: after a reconnect, or when something turned out to be gone. */
  redeclare(session: Session): Promise<void> {
    const running = this.#redeclaring.get(session) ?? this.#redeclare(session);
    this.#redeclaring.set(session, running);
    return running.finally(() => this.#redeclaring.delete(session));
  }

  async #redeclare(session: Session): Promise<void> {
    this.#done.delete(session);
    this.#groupsThere.clear();
    for (const topic of this.#topics.values()) await this.#topic(session, topic);
    for (const group of this.#groups.values()) await this.ensureGroup(session, group);
    for (const group of this.#partitioned.values()) await this.ensurePartitions(session, group);
  }

  /** Whether a queue is there. `false` when it was deleted. */
  async exists(session: Session, queue: string): Promise<boolean> {
    try {
      await onThrowAwayChannel(session, `queue \`${queue}\``, (channel) => channel.checkQueue(queue));
      return true;
    } catch (error) {
      if ((error as MessagingError).code === "ERR_DESTINATION") return false;
      throw error;
    }
  }

  /** Runs `act` once per connection and name; a failure is not remembered. */
  once(session: Session, name: string, act: () => Promise<void>): Promise<void> {
    const done = this.#done.get(session) ?? new Map<string, Promise<void>>();
    this.#done.set(session, done);
    const known = done.get(name);
    if (known !== undefined) return known;
    const running = act().catch((error: unknown) => {
      done.delete(name);
      throw error;
    });
    done.set(name, running);
    return running;
  }

  #topic(session: Session, topic: TopicSpec): Promise<void> {
    const exchange = this.exchange(topic);
    this.#topics.set(exchange, topic);
    return this.once(session, `exchange ${exchange}`, async () => {
      await onThrowAwayChannel(session, `exchange \`${exchange}\``, (channel) =>
        declareTopicExchange(channel, exchange),
      );
    });
  }

  async #declareGroup(channel: Channel, spec: GroupSpec): Promise<void> {
    const exchange = this.exchange(spec.topic);
    const { queue, dead, exchange: groupExchange, rest } = this.names(spec);
    await declareTopicExchange(channel, exchange);
    await channel.assertExchange(this.returns, "direct", { durable: true });
    // The dead letters first: the server tries a missing target again only after three minutes.
    await naming(`queue \`${dead}\``, () =>
      channel.assertQueue(dead, quorumQueue({ "x-delivery-limit": noDeliveryLimit })),
    );
    await channel.assertQueue(queue, workQueue(dead));
    await naming(`exchange \`${rest}\``, () => channel.assertExchange(rest, "fanout", { durable: true }));
    await naming(`exchange \`${groupExchange}\``, () =>
      channel.assertExchange(groupExchange, "direct", { durable: true, alternateExchange: rest }),
    );
    await channel.bindQueue(queue, this.returns, queue);
    // From its end to its beginning, so that nothing is taken that has nowhere to go.
    await channel.bindQueue(queue, rest, "");
    await channel.bindExchange(groupExchange, exchange, "#");
  }

  async #declarePartition(channel: Channel, spec: GroupSpec, partition: number): Promise<void> {
    const { queue, dead, exchange } = this.names(spec);
    const name = partitionOf(queue, partition);
    await channel.assertQueue(name, workQueue(dead));
    await channel.bindQueue(name, this.returns, name);
    await channel.bindQueue(name, exchange, routingKey(spec.topic, partition));
  }
}

/** What a message is published with; groups that are not ordered take any. */
export function routingKey(topic: TopicSpec, partition: number): string {
  return `${topic.name}.${partition}`;
}

function partitionOf(queue: string, partition: number): string {
  return `${queue}--p${partition}`;
}

function workQueue(dead: string): ReturnType<typeof quorumQueue> {
  return quorumQueue({
    ...surely,
    "x-delivery-limit": deliveryLimit,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": dead,
  });
}

function declareTopicExchange(channel: Channel, exchange: string): Promise<unknown> {
  return naming(`exchange \`${exchange}\``, () =>
    channel.assertExchange(exchange, "topic", { durable: true }),
  );
}

async function naming(what: string, act: () => Promise<unknown>): Promise<unknown> {
  try {
    return await act();
  } catch (error) {
    throw channelError(error, what);
  }
}
