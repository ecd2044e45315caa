/** One subscription: consumes a group's queue, and an ordered one its share of the partitions; settles where it was read. */
import {
  type AdapterContext,
  type DeliverySink,
  type HeaderPatch,
  type RawDelivery,
  type SettleResult,
  type SubscribeSpec,
  type Subscription,
  type SubscriptionHealth,
  TransportError,
  patchHeaders,
} from "../../src/spi.ts";
import { within } from "./bounded.ts";
import { closed } from "./errors.ts";
import type { DelayLadder } from "./delay.ts";
import type { Link, Session } from "./connection.ts";
import type { Publisher } from "./publisher.ts";
import { type ConsumerHost, QueueConsumer } from "./queue-consumer.ts";
import { Sharing } from "./sharing.ts";
import { Stream } from "./stream.ts";
import type { Turn } from "./turn.ts";
import { Window } from "./window.ts";
import type { Declarations } from "./topology.ts";

export interface SubscriberContext {
  readonly context: AdapterContext;
  readonly link: Link;
  readonly declarations: Declarations;
  readonly ladder: DelayLadder;
  readonly publisher: Publisher;
  readonly onClosed: (subscription: Subscription) => void;
}

const stale: SettleResult = { status: "stale" };
const done: SettleResult = { status: "done" };

/** How long closing waits for the server's answer, which never comes when it is frozen. */
const goodbyeMs = 1_000;

export class RabbitmqSubscription implements Subscription {
  readonly #parts: SubscriberContext;
  readonly #spec: SubscribeSpec;
  readonly #sink: DeliverySink;
  readonly #window: Window;
  readonly #closing = new AbortController();
  readonly #streams = new Set<Stream>();
  readonly #consumer: QueueConsumer;
  /** Of an ordered subscription. */
  readonly #sharing: Sharing | undefined;
  #state: "running" | "paused" | "stopped" = "running";
  #loop: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | undefined;

  constructor(parts: SubscriberContext, spec: SubscribeSpec, sink: DeliverySink) {
    this.#parts = parts;
    this.#spec = spec;
    this.#sink = sink;
    this.#window = new Window(spec.prefetch);
    const host: ConsumerHost = {
      ...parts,
      spec,
      closing: this.#closing.signal,
      openStream: (...args) => this.#openStream(...args),
    };
    this.#sharing = spec.order === "key" ? new Sharing(host) : undefined;
    this.#consumer = new QueueConsumer(host, this.#sharing);
  }

  /** Resolves when the queue is there and bound: what is published from now on arrives. */
  async start(): Promise<void> {
    const { link, declarations, ladder } = this.#parts;
    const session = await link.ready();
    await this.#checkKind(session);
    await declarations.ensureGroup(session, this.#spec);
    await ladder.prepare(session, this.#spec.maxRetryDelayMs);
    // An ordered subscription may have to stand by for long: it is as good as started.
    const first = this.#sharing === undefined ? await this.#consumer.open() : undefined;
    this.#loop = Promise.all([this.#consumer.run(first), this.#sharing?.run()]);
  }

  async ack(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return this.#settle(deliveries, (stream, ours) => stream.ack(ours));
  }

  async release(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return this.#settle(deliveries, (stream, ours) => stream.release(ours));
  }

  async extend(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    // A delivery is ours as long as its channel lives; only the server's consumer_timeout ends that.
    return this.#settle(deliveries, (stream, ours) => stream.checkAge(ours));
  }

  defer(delivery: RawDelivery, delayMs: number, patch: HeaderPatch): Promise<SettleResult> {
    return this.#copyThenAck(delivery, ({ queue }) => ({ queue, delayMs }), patch);
  }

  deadLetter(delivery: RawDelivery, patch: HeaderPatch): Promise<SettleResult> {
    return this.#copyThenAck(delivery, () => "dead", patch);
  }

  pause(): void {
    if (this.#state !== "running") return;
    this.#state = "paused";
    for (const stream of this.#streams) void stream.want(false);
  }

  resume(): void {
    if (this.#state !== "paused") return;
    this.#state = "running";
    for (const stream of this.#streams) void stream.want(true);
  }

  stop(): Promise<void> {
    this.#state = "stopped";
    this.#sharing?.stop();
    for (const stream of this.#streams) stream.stop();
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  health(): SubscriptionHealth {
    const error = this.#consumer.error ?? this.#sharing?.error;
    const silentMs = Math.max(0, ...Array.from(this.#streams, (stream) => stream.silentMs));
    return { consuming: this.#state !== "stopped" && error === undefined, error, silentMs };
  }

  async #close(): Promise<void> {
    await this.stop();
    this.#closing.abort(closed());
    const { runtime } = this.#parts.context;
    await within(
      runtime,
      goodbyeMs,
      Promise.all([...Array.from(this.#streams, (stream) => stream.close()), this.#loop]),
    );
    this.#parts.onClosed(this);
  }

  async #openStream(
    session: Session,
    queue: string,
    turn: Turn | undefined,
    onEnd: (stream: Stream) => void,
  ): Promise<Stream> {
    const stream = await Stream.open({
      context: this.#parts.context,
      session,
      spec: this.#spec,
      queue,
      turn,
      window: this.#window,
      sink: this.#sink,
      onEnd: (ended) => {
        this.#streams.delete(ended);
        onEnd(ended);
      },
    });
    // Before it consumes: what it hands over may be settled at once.
    if (stream.error === undefined) this.#streams.add(stream);
    if (this.#closing.signal.aborted) await stream.close();
    else await stream.want(this.#state === "running");
    if (stream.error !== undefined) {
      await stream.over;
      throw stream.error;
    }
    return stream;
  }

  /** A group's messages are in one queue, or in those of its partitions: who looks into the other would miss them. */
  async #checkKind(session: Session): Promise<void> {
    const { declarations } = this.#parts;
    const { topic, group, order } = this.#spec;
    if (order === "key" || !topic.keyed || !(await declarations.isPartitioned(session, this.#spec))) return;
    const { queue } = declarations.names(this.#spec);
    throw new TransportError(
      "ERR_TOPOLOGY",
      `group "${group}" of topic "${topic.name}" has been consumed with order: "key", its messages are in the queues \`${queue}--p0\`, …. Consume it with order: "key", or with another group name; or delete those queues when they are empty.`,
    );
  }

  /** Settles what is still ours; the rest is stale. */
  #settle(
    deliveries: readonly RawDelivery[],
    act: (stream: Stream, ours: readonly RawDelivery[]) => void,
  ): readonly SettleResult[] {
    const settled = new Set<RawDelivery>();
    for (const [stream, read] of Map.groupBy(deliveries, streamOf)) {
      const ours = read.filter((delivery) => stream.has(delivery));
      if (ours.length === 0) continue;
      try {
        act(stream, ours);
        for (const delivery of ours) settled.add(delivery);
      } catch {
        // The channel has just ended: the server takes everything back.
      }
    }
    return deliveries.map((delivery) => (settled.has(delivery) ? done : stale));
  }

  /** The copy first, confirmed; only then the original, on the very channel it came from. */
  async #copyThenAck(
    delivery: RawDelivery,
    to: (stream: Stream) => Parameters<Publisher["copy"]>[1],
    patch: HeaderPatch,
  ): Promise<SettleResult> {
    const stream = streamOf(delivery);
    if (!stream.has(delivery)) return stale;
    const message = { ...delivery.message, headers: patchHeaders(delivery.message.headers, patch) };
    const outcome = await this.#parts.publisher.copy(this.#spec, to(stream), message);
    if (outcome.status === "accepted") {
      // If the channel has ended meanwhile there are two copies now; the inbox, or the letter's id, makes them one.
      if (stream.has(delivery)) this.#settle([delivery], (open, ours) => open.ack(ours));
      return done;
    }
    return { status: "failed", error: outcome.error };
  }
}

function streamOf({ token }: RawDelivery): Stream {
  return token as Stream;
}
