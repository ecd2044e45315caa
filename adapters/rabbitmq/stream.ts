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
import { within } from "./bounded.ts";
import { type OpenChannel, openChannel } from "./channel.ts";
import type { Session } from "./connection.ts";
import { channelError, closed } from "./errors.ts";
import { redeliveriesOf, toWireMessage } from "./mapping.ts";
import { Probe } from "./probe.ts";
import type { Turn } from "./turn.ts";
import { Unacked } from "./unacked.ts";
import type { Window } from "./window.ts";

export interface StreamContext {
  readonly context: AdapterContext;
  readonly session: Session;
  readonly spec: SubscribeSpec;
  readonly queue: string;
  /** What an ordered consumer has at the queue; it ends with the stream. */
  readonly turn?: Turn | undefined;
  readonly window: Window;
  readonly sink: DeliverySink;
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
  /** Settled since it began to leave. Acknowledged now, they would make the server send what comes after them. */
  #leaving: { readonly settled: number[]; readonly onEmpty: () => void } | undefined;
  #consumerTag: string | undefined;
  #switching = false;
  #warned = false;
  /** Resolves when it has ended. */
  readonly over: Promise<void>;

  /** Opens a channel. Consumes when told to. Rejects with a `MessagingError`, and the turn is over. */
  static async open(context: StreamContext): Promise<Stream> {
    const { session, spec, queue, turn } = context;
    try {
      const open = await openChannel(session, `queue \`${queue}\``);
      await prefetch(open.channel, spec.prefetch, queue);
      return new Stream(context, open);
    } catch (error) {
      // If its connection has ended, so has the turn; the error that led here is the one to tell.
      await turn?.release().catch(() => undefined);
      throw error;
    }
  }

  constructor(context: StreamContext, open: OpenChannel) {
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
        .then(() => context.turn?.release())
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

  get queue(): string {
    return this.#context.queue;
  }

  /** Deliveries handed over and not settled. */
  get held(): number {
    return this.#held.size;
  }

  /** Nothing was delivered that is not settled. */
  get isEmpty(): boolean {
    return this.#unacked.count === 0;
  }

  /** Whether the first so many that were delivered are settled. */
  isDoneWith(count: number): boolean {
    return this.#unacked.doneUpTo(count);
  }

  /** All must be held. Throws when the channel has ended. */
  ack(deliveries: readonly RawDelivery[]): void {
    const tags = this.#take(deliveries);
    if (this.#leaving === undefined) this.#unacked.ack(tags);
    else this.#leaving.settled.push(...tags);
    this.#settled(tags.length);
  }

  /** All must be held. An ordered consumer gives nothing back before it goes: later messages would come before earlier ones. */
  release(deliveries: readonly RawDelivery[]): void {
    const tags = this.#take(deliveries);
    if (!this.#ordered) this.#unacked.giveBack(tags);
    this.#settled(tags.length);
  }

  #settled(count: number): void {
    if (this.#held.size === 0) this.#leaving?.onEmpty();
    this.#context.window.give(count);
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

  /**
   * Hands over nothing more, and ends as soon as all that was handed over is settled: for an ordered consumer, so that
   * another one may go on without anything coming twice. `false`: for `patienceMs` nothing was settled, and everything
   * goes on.
   */
  async leave(patienceMs: number): Promise<boolean> {
    const { promise: empty, resolve: onEmpty } = Promise.withResolvers<void>();
    const settled: number[] = [];
    this.#leaving = { settled, onEmpty };
    const { runtime } = this.#context.context;
    for (let before = Infinity; this.#held.size > 0 && this.#held.size < before;) {
      before = this.#held.size;
      await within(runtime, patienceMs, Promise.race([empty, this.over]));
    }
    const quiet = this.#held.size === 0;
    this.#leaving = undefined;
    try {
      // All in one command: of several some might be forgotten when the channel closes.
      this.#unacked.ack(settled);
    } catch {
      // The channel has ended: the server takes them back by itself.
    }
    if (quiet) {
      this.#open.abandon(closed());
      await this.over;
    } else {
      this.#handOver();
    }
    return quiet;
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
    this.#drop();
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
    const { context, session, queue } = this.#context;
    if (how === "withheld") {
      const text = `queue \`${queue}\` has messages, but none has come to its consumer`;
      // The connection lives: nobody else would say it.
      context.emit({ type: "warning", code: `CONSUMER_DEAF ${queue}`, message: `${text}: it starts anew.` });
      this.#open.abandon(new TransportError("ERR_CONNECTION_LOST", text));
    } else {
      const text = `the channel of queue \`${queue}\` is not answered any more`;
      session.abandon(new TransportError("ERR_CONNECTION_LOST", text));
    }
  }

  readonly #handOver = (): void => {
    if (!this.#wanted || this.#leaving !== undefined || this.#waiting.length === 0) return;
    const room = this.#context.window.take(this.#waiting.length, this.#handOver);
    if (room === 0) return;
    const batch = this.#waiting.splice(0, room);
    const since = this.#context.context.runtime.monotonic();
    const deliveries = batch.map((message) => {
      const delivery = this.#toDelivery(message);
      this.#held.set(delivery, { tag: message.fields.deliveryTag, since });
      return delivery;
    });
    this.#context.sink.deliver(deliveries);
  };

  #toDelivery({ properties, fields, content }: ConsumeMessage): RawDelivery {
    const { spec, queue } = this.#context;
    return {
      topic: spec.topic.name,
      group: spec.group,
      message: toWireMessage(properties, content),
      // The server numbers nothing. Unique, so that two messages are never taken for one.
      position: `${queue}@${this.#id}-${fields.deliveryTag}`,
      redeliveries: redeliveriesOf(properties, fields.redelivered),
      token: this,
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
    this.#waiting = [];
    const lost = [...this.#held.keys()];
    if (lost.length > 0) this.#context.sink.lost(lost);
    this.#drop();
  }

  #drop(): void {
    const { size } = this.#held;
    this.#held.clear();
    this.#context.window.give(size);
  }
}

async function prefetch(channel: Channel, count: number, queue: string): Promise<void> {
  try {
    await channel.prefetch(count);
  } catch (error) {
    throw channelError(error, `queue \`${queue}\``);
  }
}
