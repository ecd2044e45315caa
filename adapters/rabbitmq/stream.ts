/** One channel with one consumer on it, from its opening to its end. */
import type { Channel, ConsumeMessage } from "amqplib";
import {
  type AdapterContext,
  type DeliverySink,
  type MessagingError,
  type RawDelivery,
  type SubscribeSpec,
  TransportError,
} from "../../src/spi.ts";
import { type OpenChannel, openChannel } from "./channel.ts";
import type { Session } from "./connection.ts";
import { channelError, closed } from "./errors.ts";
import { redeliveriesOf, toWireMessage } from "./mapping.ts";
import { Probe } from "./probe.ts";
import { type Turn, takeTurn } from "./turn.ts";
import { Unacked } from "./unacked.ts";

export interface StreamContext {
  readonly context: AdapterContext;
  readonly session: Session;
  readonly spec: SubscribeSpec;
  readonly queue: string;
  /** The exclusive queue of an ordered consumer. */
  readonly lock: string;
  readonly sink: DeliverySink;
  /** Aborted when the subscription closes. */
  readonly signal: AbortSignal;
  /** Another instance has the turn; all is well. */
  onStandby(): void;
  /** Called once, after everything that was held has been reported lost. */
  onEnd(stream: Stream): void;
}

/** RabbitMQ takes back after 30 minutes by default (`consumer_timeout`) what was not settled. */
const warnAgeMs = 25 * 60_000;

export class Stream {
  readonly #context: StreamContext;
  readonly #open: OpenChannel;
  readonly #unacked: Unacked;
  readonly #probe: Probe;
  readonly #id: string;
  /** Handed over and not settled. */
  readonly #held = new Map<RawDelivery, { readonly tag: number; readonly since: number }>();
  /** Came after `pause` or beyond the window, and not handed over yet. */
  #waiting: ConsumeMessage[] = [];
  #wanted = false;
  #stopped = false;
  #consumerTag: string | undefined;
  #switching = false;
  #warned = false;
  /** Resolves when it has ended. */
  readonly over: Promise<void>;

  /** Opens a channel, for an ordered subscription when it is its turn. Consumes when told to. Rejects with a `MessagingError`. */
  static async open(context: StreamContext): Promise<Stream> {
    const { session, spec, queue, lock, signal } = context;
    let turn: Turn | undefined;
    if (spec.order === "key") {
      context.onStandby();
      turn = await takeTurn(context.context, session, { lock, queue }, signal);
    }
    try {
      const open = await openChannel(session, `queue \`${queue}\``);
      await prefetch(open.channel, spec.prefetch, queue);
      return new Stream(context, open, turn);
    } catch (error) {
      await turn?.release().catch(() => undefined);
      throw error;
    }
  }

  constructor(context: StreamContext, open: OpenChannel, turn: Turn | undefined) {
    this.#context = context;
    this.#open = open;
    this.#unacked = new Unacked(open.channel);
    this.#id = context.context.runtime.newId();
    this.#probe = new Probe({
      runtime: context.context.runtime,
      channel: open.channel,
      queue: context.queue,
      isOpen: () => this.#wanted && this.#unacked.count < context.spec.prefetch,
      onDead: (how) => this.#onDead(how),
    });
    const { promise, resolve } = Promise.withResolvers<void>();
    this.over = promise;
    const end = (): void => {
      this.#probe.stop();
      this.#lose();
      context.onEnd(this);
      // The next one's turn begins when the server has put back what we held. If the connection is gone, so is the turn.
      void open.gone
        .then(() => turn?.release())
        .catch(() => undefined)
        .then(resolve);
    };
    if (open.ended.aborted) end();
    else open.ended.addEventListener("abort", end, { once: true });
  }

  get #ordered(): boolean {
    return this.#context.spec.order === "key";
  }

  /** Why it has ended. */
  get error(): MessagingError | undefined {
    return this.#open.ended.aborted ? (this.#open.ended.reason as MessagingError) : undefined;
  }

  /** For how long nothing has shown that messages would come. */
  get silentMs(): number {
    return this.#probe.silentMs;
  }

  /** Whether this delivery can still be settled here. */
  has(delivery: RawDelivery): boolean {
    return this.#held.has(delivery) && !this.#open.ended.aborted;
  }

  /** All must be held. Throws when the channel has ended. */
  ack(deliveries: readonly RawDelivery[]): void {
    this.#unacked.ack(this.#take(deliveries));
    this.#handOver();
  }

  /** All must be held. An ordered consumer gives nothing back before it goes: later messages would come before earlier ones. */
  release(deliveries: readonly RawDelivery[]): void {
    const tags = this.#take(deliveries);
    if (!this.#ordered) this.#unacked.giveBack(tags);
    this.#handOver();
  }

  /** Says so, once, when a delivery is held so long that the server is about to take it back. */
  checkAge(deliveries: readonly RawDelivery[]): void {
    const { context, queue } = this.#context;
    const now = context.runtime.monotonic();
    const old = deliveries.some((delivery) => now - (this.#held.get(delivery)?.since ?? now) > warnAgeMs);
    if (this.#warned || !old) return;
    this.#warned = true;
    context.emit({
      type: "warning",
      code: "CONSUMER_TIMEOUT",
      message: `a message of queue \`${queue}\` is being handled for 25 minutes; RabbitMQ takes it back after consumer_timeout, by default 30 minutes`,
    });
  }

  /** Starts or stops consuming. Resolves when the server does so; never rejects: what fails ends the stream. */
  want(wanted: boolean): Promise<void> {
    this.#wanted = wanted;
    if (wanted) this.#handOver();
    return this.#switch();
  }

  /** Hands over nothing more; what waits here is given back. */
  stop(): void {
    this.#stopped = true;
    void this.want(false);
    if (this.#ordered) return;
    const waiting = this.#waiting.map(({ fields }) => fields.deliveryTag);
    this.#waiting = [];
    this.#giveBack(waiting);
  }

  /** Gives everything back, in order, and ends. */
  async close(): Promise<void> {
    this.stop();
    this.#held.clear();
    // Closing the channel gives back too, in order, but always counts as a hand-over; since 4.3 this does not.
    if (!this.#ordered) {
      await this.#flush();
      this.#giveBack(this.#unacked.open());
    }
    this.#open.abandon(closed());
    await this.over;
  }

  /**
   * A channel passes settlements on to a quorum queue as fast as that takes them, and forgets those that wait when it closes
   * (seen on 3.10, from the 33rd of a burst on). No settlement is answered, but a `get` is, after all before it.
   * An ordered consumer has to do without: the message it got would come before those it holds.
   */
  async #flush(): Promise<void> {
    const { channel } = this.#open;
    try {
      const message = await channel.get(this.#context.queue);
      if (message !== false) this.#unacked.add(message.fields.deliveryTag);
    } catch {
      // The channel has ended, and what was not settled comes again.
    }
  }

  /**
   * Makes the server do what is wanted, one change at a time. An ordered consumer stays one until its channel closes:
   * what was on its way to a cancelled consumer the server puts back at once, and so before what that consumer still
   * holds; and what several consumers hold it puts back consumer by consumer.
   */
  async #switch(): Promise<void> {
    if (this.#switching) return;
    this.#switching = true;
    const { channel, ended } = this.#open;
    try {
      while (!ended.aborted && this.#wanted !== (this.#consumerTag !== undefined)) {
        if (this.#wanted) {
          const { queue } = this.#context;
          const { consumerTag } = await channel.consume(queue, (message) => this.#onMessage(message));
          this.#consumerTag = consumerTag;
        } else if (this.#ordered) {
          return;
        } else {
          await channel.cancel(this.#consumerTag as string);
          this.#consumerTag = undefined;
        }
      }
    } catch (error) {
      this.#open.abandon(channelError(error, `queue \`${this.#context.queue}\``));
    } finally {
      this.#switching = false;
    }
  }

  /** Called by amqplib while it reads; must not throw. */
  #onMessage(message: ConsumeMessage | null): void {
    const { queue } = this.#context;
    if (message === null) {
      const why = `the server cancelled the consumer of queue \`${queue}\`: deleted, moved to another node, or a message was held too long`;
      return this.#open.abandon(new TransportError("ERR_BROKER", why));
    }
    const tag = message.fields.deliveryTag;
    this.#probe.received();
    this.#unacked.add(tag);
    if (this.#stopped && !this.#ordered) return this.#giveBack([tag]);
    this.#waiting.push(message);
    this.#handOver();
  }

  /** A channel that does not even answer will not close either: then its connection ends, and with it what the channel holds. */
  #onDead(how: "withheld" | "unanswered"): void {
    const { session, queue } = this.#context;
    const text =
      how === "withheld"
        ? `queue \`${queue}\` has messages, but none has come to its consumer`
        : `the channel of queue \`${queue}\` is not answered any more`;
    const error = new TransportError("ERR_CONNECTION_LOST", text);
    if (how === "withheld") this.#open.abandon(error);
    else session.abandon(error);
  }

  #handOver(): void {
    if (!this.#wanted || this.#waiting.length === 0) return;
    const room = this.#context.spec.prefetch - this.#held.size;
    const batch = this.#waiting.splice(0, room);
    if (batch.length === 0) return;
    const since = this.#context.context.runtime.monotonic();
    const deliveries = batch.map((message) => {
      const delivery = this.#toDelivery(message);
      this.#held.set(delivery, { tag: message.fields.deliveryTag, since });
      return delivery;
    });
    this.#context.sink.deliver(deliveries);
  }

  #toDelivery({ properties, fields, content }: ConsumeMessage): RawDelivery {
    const { spec, queue } = this.#context;
    return {
      topic: spec.topic.name,
      group: spec.group,
      message: toWireMessage(properties, content),
      // The server numbers nothing. Unique, so that two messages are never taken for one.
      position: `${queue}@${this.#id}-${fields.deliveryTag}`,
      redeliveries: redeliveriesOf(properties, fields.redelivered),
      token: undefined,
    };
  }

  #take(deliveries: readonly RawDelivery[]): readonly number[] {
    return deliveries.flatMap((delivery) => {
      const held = this.#held.get(delivery);
      this.#held.delete(delivery);
      return held === undefined ? [] : [held.tag];
    });
  }

  #giveBack(tags: readonly number[]): void {
    try {
      this.#unacked.giveBack(tags);
    } catch {
      // The channel has ended: the server takes them back by itself.
    }
  }

  #lose(): void {
    const lost = [...this.#held.keys()];
    this.#held.clear();
    this.#waiting = [];
    if (lost.length > 0) this.#context.sink.lost(lost);
  }
}

async function prefetch(channel: Channel, count: number, queue: string): Promise<void> {
  try {
    await channel.prefetch(count);
  } catch (error) {
    throw channelError(error, `queue \`${queue}\``);
  }
}
