/** A running consumer: takes deliveries, keeps their leases, runs them through dispatch and settle, and drains. */
import type { Adapter, DeliverySink, RawDelivery, SubscribeSpec, Subscription } from "./adapter.ts";
import type { Cancel, Runtime } from "./clock.ts";
import { type DispatchContext, createDispatch } from "./dispatch.ts";
import { type Duration, toMs } from "./duration.ts";
import { LifecycleError, type MessagingError, SettleError } from "./errors.ts";
import { type Lanes, type Slot, createLanes } from "./lanes.ts";
import { storeError } from "./once.ts";
import type { Outcome } from "./outcome.ts";
import { createSettle } from "./settle.ts";
import { type Work, createWork, infoOf } from "./work.ts";

/** What `bus.consume` resolves with. */
export interface Consumer extends AsyncDisposable {
  readonly topic: string;
  readonly group: string;
  /** No more deliveries until `resume`; what runs goes on. */
  pause(): void;
  resume(): void;
  /** Whether it receives, or would if there were messages. Cached, no I/O. */
  health(): ConsumerHealth;
  /**
   * Takes no more, lets what runs finish for `timeout` (default: the bus's `drainTimeout`), then aborts it and gives it
   * back without counting an attempt. Resolves when all is settled or given back. Twice is fine.
   */
  close(options?: { readonly timeout?: Duration }): Promise<void>;
}

export interface ConsumerHealth {
  readonly consuming: boolean;
  /** Deliveries handed over and not yet settled. */
  readonly inFlight: number;
  readonly error?: MessagingError | undefined;
}

export interface ConsumerContext {
  readonly adapter: Adapter;
  readonly runtime: Runtime;
  readonly spec: SubscribeSpec;
  readonly dispatch: Omit<DispatchContext, "closing">;
  readonly concurrency: number;
  readonly drainTimeoutMs: number;
  /** Called once when it has closed. */
  readonly onClosed: (consumer: Consumer) => void;
}

/** How long an aborted handler may take to notice before its delivery is given back regardless. */
const abortGraceMs = 500;

/** Subscribes and starts. Resolves when messages published from now on are sure to arrive. */
export async function startConsumer(context: ConsumerContext): Promise<Consumer> {
  const consumer = new RunningConsumer(context);
  await consumer.start();
  return consumer;
}

class RunningConsumer implements Consumer {
  readonly #context: ConsumerContext;
  readonly #lanes: Lanes;
  readonly #unsettled = new Map<RawDelivery, Work>();
  /** Aborted when it begins to close: nothing starts or waits any more. */
  readonly #closing = new AbortController();
  /** Aborted when it gives up what is still unsettled. */
  readonly #leaving = new AbortController();
  readonly #dispatch: (work: Work, slot: Slot) => Promise<Outcome>;
  /** Deliveries may come before `subscribe` has resolved; they wait here. */
  readonly #subscribed = Promise.withResolvers<{
    subscription: Subscription;
    settle: (work: Work, outcome: Outcome) => Promise<void>;
  }>();
  #subscription: Subscription | undefined;
  #stopLeases: Cancel = () => undefined;
  #whenEmpty: () => void = () => undefined;
  #closed: Promise<void> | undefined;

  constructor(context: ConsumerContext) {
    this.#context = context;
    this.#lanes = createLanes(context.concurrency);
    this.#dispatch = createDispatch({ ...context.dispatch, closing: this.#closing.signal });
  }

  get topic(): string {
    return this.#context.spec.topic.name;
  }

  get group(): string {
    return this.#context.spec.group;
  }

  async start(): Promise<void> {
    const { adapter, runtime, spec, dispatch } = this.#context;
    const sink: DeliverySink = { deliver: (raws) => this.#deliver(raws), lost: (raws) => this.#lost(raws) };
    const subscription = await adapter.subscribe(spec, sink);
    const { once, emit } = dispatch;
    const leaving = this.#leaving.signal;
    const settle = createSettle({ runtime, subscription, topic: spec.topic, once, emit, leaving });
    this.#subscription = subscription;
    this.#subscribed.resolve({ subscription, settle });
    this.#scheduleLeases(subscription);
  }

  pause(): void {
    this.#subscription?.pause();
  }

  resume(): void {
    this.#subscription?.resume();
  }

  health(): ConsumerHealth {
    return { consuming: false, ...this.#subscription?.health(), inFlight: this.#unsettled.size };
  }

  close(options: { readonly timeout?: Duration } = {}): Promise<void> {
    const { drainTimeoutMs } = this.#context;
    const timeoutMs = options.timeout === undefined ? drainTimeoutMs : toMs(options.timeout, "timeout");
    this.#closed ??= this.#close(timeoutMs);
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #deliver(raws: readonly RawDelivery[]): void {
    const ordered = this.#context.spec.order === "key";
    for (const raw of raws) {
      const work = createWork(raw, this.#context.runtime);
      this.#unsettled.set(raw, work);
      this.#lanes.run(ordered ? work.message.key : undefined, (slot) => this.#process(work, slot));
    }
  }

  #lost(raws: readonly RawDelivery[]): void {
    for (const raw of raws) {
      const work = this.#unsettled.get(raw);
      if (work === undefined) continue;
      if (work.state === "waiting") work.state = "ended";
      work.cancel.abort(new LifecycleError("ERR_DRAINING", "the delivery was lost to another consumer"));
    }
  }

  async #process(work: Work, slot: Slot): Promise<void> {
    try {
      const { settle } = await this.#subscribed.promise;
      if (work.state === "ended") return;
      if (this.#closing.signal.aborted) return await settle(work, { kind: "release" });
      work.state = "running";
      await settle(work, await this.#dispatch(work, slot));
    } catch (error) {
      // The last line of defence: one message must never stop the consumer. It stays unsettled and comes again.
      const failure = new SettleError(`a delivery ended unexpectedly: ${String(error)}`, { cause: error });
      this.#context.dispatch.emit({ type: "settleFailed", error: failure, delayMs: 0, ...infoOf(work) });
    } finally {
      this.#unsettled.delete(work.raw);
      if (this.#unsettled.size === 0) this.#whenEmpty();
    }
  }

  #scheduleLeases(subscription: Subscription): void {
    const { runtime, spec } = this.#context;
    const extend = (): void =>
      void this.#extendLeases(subscription).finally(() => {
        if (this.#closed === undefined || this.#unsettled.size > 0) this.#scheduleLeases(subscription);
      });
    // Not unreferenced: a consumer keeps its process alive, on an embedded broker too.
    this.#stopLeases = runtime.setTimer(spec.leaseMs / 3, extend);
  }

  async #extendLeases(subscription: Subscription): Promise<void> {
    const works = [...this.#unsettled.values()].filter((work) => work.state !== "ended");
    if (works.length === 0) return;
    const { once, emit } = this.#context.dispatch;
    const warn = (error: unknown): void =>
      emit({
        type: "warning",
        code: "LEASE",
        message: `leases were not extended: ${storeError(error).message}`,
      });
    await subscription.extend(works.map((work) => work.raw)).catch(warn);
    await once.extend(works.map((work) => work.inboxKey)).catch(warn);
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#closing.abort(new LifecycleError("ERR_DRAINING", "the consumer is closing"));
    try {
      await this.#subscription?.stop();
      await this.#drain(timeoutMs);
    } finally {
      this.#stopLeases();
      await this.#subscription?.close();
      this.#context.onClosed(this);
    }
  }

  async #drain(timeoutMs: number): Promise<void> {
    const { runtime } = this.#context;
    const empty = new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
      if (this.#unsettled.size === 0) resolve();
    });
    if (await resolvesWithin(runtime, timeoutMs, empty)) return;
    const reason = new LifecycleError("ERR_DRAINING", `closing: the handler had ${timeoutMs} ms to finish`);
    for (const work of this.#unsettled.values()) work.cancel.abort(reason);
    await resolvesWithin(runtime, abortGraceMs, empty);
    this.#leaving.abort(reason);
    for (const work of this.#unsettled.values()) work.state = "ended";
    this.#unsettled.clear();
  }
}

async function resolvesWithin(runtime: Runtime, ms: number, done: Promise<void>): Promise<boolean> {
  let cancel: Cancel = () => undefined;
  const late = new Promise<false>((resolve) => {
    cancel = runtime.setTimer(ms, () => resolve(false));
  });
  try {
    return await Promise.race([done.then(() => true), late]);
  } finally {
    cancel();
  }
}
