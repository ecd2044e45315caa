/** A running consumer: takes deliveries, keeps their leases, runs them through dispatch and settle, and drains. */
import type { Adapter, DeliverySink, RawDelivery, SubscribeSpec, Subscription } from "./adapter.ts";
import type { Cancel, Runtime } from "./clock.ts";
import { type DispatchContext, createDispatch } from "./dispatch.ts";
import { type Duration, toMs } from "./duration.ts";
import { LifecycleError, type MessagingError, SettleError, StoreError } from "./errors.ts";
import { textOf } from "./inspect.ts";
import { type Lanes, type Slot, createLanes } from "./lanes.ts";
import type { Outcome } from "./outcome.ts";
import { checkKeys } from "./options.ts";
import { createSettle } from "./settle.ts";
import { subscribeWatched } from "./watched.ts";
import { resolvesWithin } from "./within.ts";
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
  close(options?: CloseOptions): Promise<void>;
}

export interface CloseOptions {
  /** How long what runs may take to finish. Default: the bus's `drainTimeout`. */
  readonly timeout?: Duration | undefined;
}

/** Throws `ERR_CONFIG`. `undefined`: no timeout was given. */
export function checkCloseOptions(options: CloseOptions): number | undefined {
  checkKeys("close", options, ["timeout"]);
  return options.timeout === undefined ? undefined : toMs(options.timeout, "timeout");
}

export interface ConsumerHealth {
  readonly consuming: boolean;
  /** Deliveries handed over and not yet settled. */
  readonly inFlight: number;
  /** With `onExhausted: "block"`: ids of the messages that are out of attempts and block their keys. */
  readonly blockedBy?: readonly string[] | undefined;
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

/** When a message comes again whose handling ended in a way that should not exist. */
const unexpectedDelayMs = 30_000;
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
  readonly #settle = Promise.withResolvers<(work: Work, outcome: Outcome) => Promise<void>>();
  #subscription: Subscription | undefined;
  /** While paused: what lets the waiting deliveries start. */
  #paused: PromiseWithResolvers<void> | undefined;
  /** By what each of them extends. */
  readonly #leaseTimers = new Map<() => Promise<void>, Cancel>();
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
    const { once, emit } = dispatch;
    const sink: DeliverySink = { deliver: (raws) => this.#deliver(raws), lost: (raws) => this.#lost(raws) };
    const onRenewed = (): void => this.#lost([...this.#unsettled.keys()]);
    const subscription = await subscribeWatched({ adapter, runtime, spec, sink, emit, onRenewed });
    const leaving = this.#leaving.signal;
    const { maxDelayMs } = adapter.capabilities;
    this.#subscription = subscription;
    this.#settle.resolve(
      createSettle({ runtime, subscription, topic: spec.topic, maxDelayMs, once, emit, leaving }),
    );
    this.#keepExtending(() => this.#extendDeliveries(subscription));
    this.#keepExtending(() => this.#extendClaims());
  }

  pause(): void {
    this.#paused ??= Promise.withResolvers();
    this.#subscription?.pause();
  }

  resume(): void {
    this.#paused?.resolve();
    this.#paused = undefined;
    this.#subscription?.resume();
  }

  health(): ConsumerHealth {
    const { consuming = false, error } = this.#subscription?.health() ?? {};
    const health = { consuming, error, inFlight: this.#unsettled.size };
    if (this.#context.dispatch.onExhausted === "deadLetter") return health;
    const blocking = [...this.#unsettled.values()].filter(({ blocks, lost }) => blocks && !lost);
    return { ...health, blockedBy: blocking.map(({ message }) => message.id) };
  }

  async close(options: CloseOptions = {}): Promise<void> {
    const timeoutMs = checkCloseOptions(options) ?? this.#context.drainTimeoutMs;
    this.#closed ??= this.#close(timeoutMs);
    await this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #deliver(raws: readonly RawDelivery[]): void {
    const ordered = this.#context.spec.order === "key";
    for (const raw of raws) {
      const work = createWork(raw, this.#context.runtime);
      const lane = ordered ? work.message.key : undefined;
      work.behind = this.#lanes.isBusy(lane);
      this.#unsettled.set(raw, work);
      this.#lanes.run(lane, (slot) => this.#process(work, slot));
    }
  }

  /** A protected handler may finish: whoever gets its message now is told to wait, and then that it has ended. */
  #lost(raws: readonly RawDelivery[]): void {
    const { protects } = this.#context.dispatch.once;
    for (const raw of raws) {
      const work = this.#unsettled.get(raw);
      if (work === undefined || work.lost) continue;
      work.lost = true;
      if (work.state === "waiting") work.state = "ended";
      if (protects) work.wake?.();
      else
        this.#interrupt(
          work,
          new LifecycleError("ERR_DRAINING", "the delivery was lost to another consumer"),
        );
    }
  }

  /** Aborts what runs and ends what waits. */
  #interrupt(work: Work, reason: MessagingError): void {
    work.cancel.abort(reason);
    work.wake?.();
  }

  async #process(work: Work, slot: Slot): Promise<void> {
    try {
      const settle = await this.#settle.promise;
      while (this.#paused !== undefined && !this.#closing.signal.aborted) await this.#resumed(slot);
      if (work.state === "ended") return;
      if (this.#closing.signal.aborted) return await settle(work, { kind: "release" });
      work.state = "running";
      await settle(work, await this.#dispatchOrPutOff(work, slot));
    } catch (error) {
      // The last line of defence: one message must never stop the consumer. It stays unsettled and comes again.
      this.#report(work, error, 0);
    } finally {
      this.#unsettled.delete(work.raw);
      if (this.#unsettled.size === 0) this.#whenEmpty();
    }
  }

  /** Waits without a place, so that what runs goes on. */
  #resumed(slot: Slot): Promise<void> {
    const { promise } = this.#paused ?? Promise.withResolvers<void>();
    return slot.lendWhile(() => promise);
  }

  /** Dispatch does not throw; if it does all the same, its message goes back to the broker instead of being held for good. */
  async #dispatchOrPutOff(work: Work, slot: Slot): Promise<Outcome> {
    try {
      return await this.#dispatch(work, slot);
    } catch (error) {
      this.#report(work, error, unexpectedDelayMs);
      return { kind: "later", delayMs: unexpectedDelayMs };
    }
  }

  #report(work: Work, error: unknown, delayMs: number): void {
    const failure = new SettleError(`a delivery ended unexpectedly: ${textOf(error)}`, { cause: error });
    this.#context.dispatch.emit({ type: "settleFailed", error: failure, delayMs, ...infoOf(work) });
  }

  /**
   * At the broker and in the inbox, each by itself: one that does not answer must not let the other run out. What one of them
   * no longer grants is not ours to handle.
   */
  #keepExtending(extend: () => Promise<void>): void {
    const { runtime, spec } = this.#context;
    const again = (): void => {
      if (this.#closed === undefined || this.#unsettled.size > 0) this.#keepExtending(extend);
    };
    // Not unreferenced: a consumer keeps its process alive, on an embedded broker too.
    this.#leaseTimers.set(
      extend,
      runtime.setTimer(spec.leaseMs / 3, () => void extend().finally(again)),
    );
  }

  #running(): readonly Work[] {
    return [...this.#unsettled.values()].filter((work) => work.state !== "ended");
  }

  async #extendDeliveries(subscription: Subscription): Promise<void> {
    const works = this.#running().filter((work) => !work.lost);
    if (works.length === 0) return;
    const raws = works.map((work) => work.raw);
    try {
      const results = await subscription.extend(raws);
      const failed = results.find((result) => result.status === "failed");
      if (failed !== undefined) this.#warnOfLease("the broker", failed.error);
      this.#lost(raws.filter((_, i) => results[i]?.status === "stale"));
    } catch (error) {
      this.#warnOfLease("the broker", error);
    }
  }

  async #extendClaims(): Promise<void> {
    const works = this.#running();
    if (works.length === 0) return;
    try {
      const lost = new Set(await this.#context.dispatch.once.extend(works.map((work) => work.inboxKey)));
      const reason = new StoreError("ERR_LEASE_LOST", "the inbox claim was lost to another consumer");
      for (const work of works) if (lost.has(work.inboxKey)) this.#interrupt(work, reason);
    } catch (error) {
      this.#warnOfLease("the store", error);
    }
  }

  #warnOfLease(of: string, error: unknown): void {
    const message = `${of} did not extend the leases of group "${this.group}": ${textOf(error)}`;
    this.#context.dispatch.emit({ type: "warning", code: "LEASE", message });
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#closing.abort(new LifecycleError("ERR_DRAINING", "the consumer is closing"));
    this.#paused?.resolve();
    try {
      await this.#subscription?.stop();
    } finally {
      await this.#drain(timeoutMs);
      for (const cancel of this.#leaseTimers.values()) cancel();
      try {
        await this.#subscription?.close();
      } finally {
        this.#context.onClosed(this);
      }
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
