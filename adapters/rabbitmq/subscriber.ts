/** One subscription: consumes a group's queue on a channel of its own, settles there, and starts anew when the channel ends. */
import {
  type AdapterContext,
  type DeliverySink,
  type HeaderPatch,
  type MessagingError,
  type RawDelivery,
  type SettleResult,
  type SubscribeSpec,
  type Subscription,
  type SubscriptionHealth,
  jittered,
  patchHeaders,
  retryLoop,
} from "../../src/spi.ts";
import { within } from "./bounded.ts";
import { closed } from "./errors.ts";
import type { DelayLadder } from "./delay.ts";
import type { Link, Session } from "./connection.ts";
import type { Publisher } from "./publisher.ts";
import { Stream } from "./stream.ts";
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

/** A stream that ended sooner than this counts as a failed attempt. */
const stableMs = 5_000;
/** How long closing waits for the server's answer, which never comes when it is frozen. */
const goodbyeMs = 1_000;

export class RabbitmqSubscription implements Subscription {
  readonly #parts: SubscriberContext;
  readonly #spec: SubscribeSpec;
  readonly #sink: DeliverySink;
  readonly #queue: string;
  readonly #closing = new AbortController();
  #stream: Stream | undefined;
  #state: "running" | "paused" | "stopped" = "running";
  #error: MessagingError | undefined;
  /** Why the last stream ended, when it was not for want of a connection. */
  #suspect: MessagingError | undefined;
  #loop: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;

  constructor(parts: SubscriberContext, spec: SubscribeSpec, sink: DeliverySink) {
    this.#parts = parts;
    this.#spec = spec;
    this.#sink = sink;
    this.#queue = parts.declarations.names(spec).queue;
  }

  /** Resolves when the queue is there and bound: what is published from now on arrives. */
  async start(): Promise<void> {
    const { link, declarations, ladder } = this.#parts;
    const session = await link.ready();
    await declarations.ensureGroup(session, this.#spec);
    await ladder.prepare(session, this.#spec.maxRetryDelayMs);
    // An ordered subscription may have to stand by for long: it is as good as started.
    const first = this.#spec.order === "none" ? await this.#open() : undefined;
    this.#loop = this.#run(first);
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
    return this.#copyThenAck(delivery, { delayMs }, patch);
  }

  deadLetter(delivery: RawDelivery, patch: HeaderPatch): Promise<SettleResult> {
    return this.#copyThenAck(delivery, "dead", patch);
  }

  pause(): void {
    if (this.#state !== "running") return;
    this.#state = "paused";
    void this.#stream?.want(false);
  }

  resume(): void {
    if (this.#state !== "paused") return;
    this.#state = "running";
    void this.#stream?.want(true);
  }

  stop(): Promise<void> {
    this.#state = "stopped";
    this.#stream?.stop();
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  health(): SubscriptionHealth {
    const consuming = this.#state !== "stopped" && this.#error === undefined;
    return { consuming, error: this.#error, silentMs: this.#stream?.silentMs ?? 0 };
  }

  async #close(): Promise<void> {
    await this.stop();
    this.#closing.abort(closed());
    const { runtime } = this.#parts.context;
    await within(runtime, goodbyeMs, Promise.all([this.#stream?.close(), this.#loop]));
    this.#parts.onClosed(this);
  }

  /** One stream after the other, with growing waits while they fail. Never gives up; `health` tells of it. */
  async #run(first: Stream | undefined): Promise<void> {
    const { runtime } = this.#parts.context;
    const backoff = jittered(runtime, "subscribe", 100, 5_000);
    const sleep = (ms: number): Promise<void> => runtime.sleep(ms, this.#closing.signal);
    let next = first;
    let flaps = 0;
    const open = (): Promise<Stream> =>
      retryLoop(
        sleep,
        () => this.#open(),
        (error, attempt) => {
          this.#error = error as MessagingError;
          return backoff(attempt + flaps);
        },
      );
    try {
      while (!this.#closing.signal.aborted) {
        const stream = next ?? (await open());
        next = undefined;
        const since = runtime.monotonic();
        await stream.over;
        flaps = runtime.monotonic() - since < stableMs ? flaps + 1 : 0;
        if (flaps > 1) await sleep(backoff(flaps));
      }
    } catch {
      // Only closing ends the loop.
    }
  }

  async #open(): Promise<Stream> {
    const { context, link, declarations } = this.#parts;
    const { signal } = this.#closing;
    const session = await link.ready(signal);
    if (this.#suspect !== undefined) await this.#lookForQueue(session, this.#suspect);
    await declarations.ensureGroup(session, this.#spec);
    signal.throwIfAborted();
    const stream = await Stream.open({
      context,
      session,
      spec: this.#spec,
      queue: this.#queue,
      lock: declarations.names(this.#spec).owner,
      sink: this.#sink,
      signal,
      onStandby: () => (this.#error = undefined),
      onEnd: (ended) => this.#onStreamEnd(ended),
    });
    // Before it consumes: what it hands over may be settled at once.
    this.#stream = stream;
    if (signal.aborted) await stream.close();
    else await stream.want(this.#state === "running");
    if (stream.error !== undefined) {
      await stream.over;
      throw stream.error;
    }
    this.#error = undefined;
    return stream;
  }

  #onStreamEnd({ error }: Stream): void {
    if (this.#closing.signal.aborted) return;
    this.#error = error;
    this.#suspect = error?.code === "ERR_CONNECTION_LOST" ? undefined : error;
  }

  /** Says why consuming was interrupted, and has the queue made again when it was deleted. */
  async #lookForQueue(session: Session, why: MessagingError): Promise<void> {
    const { context, declarations } = this.#parts;
    if (await this.#isThere(session)) {
      const message = `RabbitMQ ended a consumer, which starts anew; what it held comes again. ${why.message}`;
      context.emit({ type: "warning", code: `CONSUMER_ENDED ${this.#queue}`, message });
    } else {
      declarations.forgetGroup(this.#spec);
    }
    this.#suspect = undefined;
  }

  /**
   * A server that deletes a queue cancels its consumers first, and for a moment still has the name of what is gone: whoever
   * consumes then loses the whole connection (541, seen on 4.3).
   */
  async #isThere(session: Session): Promise<boolean> {
    const { context, declarations } = this.#parts;
    for (let look = 0; look < 5; look++) {
      await context.runtime.sleep(100, this.#closing.signal);
      if (!(await declarations.exists(session, this.#queue))) return false;
    }
    return true;
  }

  /** Settles what is still ours; the rest is stale. */
  #settle(
    deliveries: readonly RawDelivery[],
    act: (stream: Stream, ours: readonly RawDelivery[]) => void,
  ): readonly SettleResult[] {
    const stream = this.#stream;
    if (stream === undefined) return deliveries.map(() => stale);
    const ours = deliveries.filter((delivery) => stream.has(delivery));
    try {
      if (ours.length > 0) act(stream, ours);
    } catch {
      // The channel has just ended: the server takes everything back.
      return deliveries.map(() => stale);
    }
    if (ours.length === deliveries.length) return deliveries.map(() => done);
    const settled = new Set(ours);
    return deliveries.map((delivery) => (settled.has(delivery) ? done : stale));
  }

  /** The copy first, confirmed; only then the original, on the very channel it came from. */
  async #copyThenAck(
    delivery: RawDelivery,
    to: Parameters<Publisher["copy"]>[1],
    patch: HeaderPatch,
  ): Promise<SettleResult> {
    const stream = this.#stream;
    if (stream === undefined || !stream.has(delivery)) return stale;
    const message = { ...delivery.message, headers: patchHeaders(delivery.message.headers, patch) };
    const outcome = await this.#parts.publisher.copy(this.#spec, to, message);
    if (outcome.status === "accepted") {
      // If the channel has ended meanwhile there are two copies now; the inbox, or the letter's id, makes them one.
      if (stream.has(delivery)) this.#settle([delivery], (open, ours) => open.ack(ours));
      return done;
    }
    return { status: "failed", error: outcome.error };
  }
}
