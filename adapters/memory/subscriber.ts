/** One subscription: hands entries of a group's queue over within its window, and settles them while they are its own. */
import type {
  Cancel,
  DeliverySink,
  HeaderPatch,
  RawDelivery,
  SettleResult,
  SubscribeSpec,
  Subscription,
  SubscriptionHealth,
} from "../../src/spi.ts";
import { patchHeaders } from "../../src/spi.ts";
import { type Entry, type GroupQueue, ripen, wake } from "./broker.ts";
import type { MemoryConnection } from "./connection.ts";
import type { MemoryOperation } from "./faults.ts";

/** What is handed over, until when it is ours. */
interface Held {
  readonly entry: Entry;
  leaseUntil: number;
}

export class MemorySubscription implements Subscription {
  readonly #connection: MemoryConnection;
  readonly #spec: SubscribeSpec;
  readonly #sink: DeliverySink;
  readonly #queue: GroupQueue;
  readonly #held = new Map<RawDelivery, Held>();
  readonly #forgetFaults: readonly (() => void)[];
  readonly #onClosed: (subscription: MemorySubscription) => void;
  #cancelTimer: Cancel = () => undefined;
  #state: "running" | "paused" | "stopped" = "running";
  #scheduled = false;
  /** Since when it hangs. */
  #deafSince: number | undefined;

  constructor(
    connection: MemoryConnection,
    spec: SubscribeSpec,
    sink: DeliverySink,
    onClosed: (subscription: MemorySubscription) => void,
  ) {
    this.#connection = connection;
    this.#onClosed = onClosed;
    this.#spec = spec;
    this.#sink = sink;
    this.#queue = connection.group(spec);
    this.#queue.wakers.add(this.#schedule);
    this.#forgetFaults = [
      connection.onCut(() => this.#lose([...this.#held.keys()])),
      connection.onDeafened(() => (this.#deafSince ??= connection.context.runtime.monotonic())),
    ];
    this.#schedule();
  }

  ack(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return this.#settle("ack", deliveries, () => undefined);
  }

  async defer(delivery: RawDelivery, delayMs: number, patch: HeaderPatch): Promise<SettleResult> {
    const { broker, context } = this.#connection;
    const dueAt = context.runtime.monotonic() + delayMs;
    return this.#settleOne("defer", delivery, () => broker.add(this.#queue, patched(delivery, patch), dueAt));
  }

  async deadLetter(delivery: RawDelivery, patch: HeaderPatch): Promise<SettleResult> {
    const bury = (): void =>
      this.#connection.broker.bury(delivery.topic, this.#queue, patched(delivery, patch));
    return this.#settleOne("deadLetter", delivery, bury);
  }

  release(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return this.#settle("release", deliveries, ({ entry }) =>
      this.#connection.broker.putBack(this.#queue, entry),
    );
  }

  async extend(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    const until = this.#connection.context.runtime.monotonic() + this.#spec.leaseMs;
    const performed = await this.#connection.perform("extend", () =>
      deliveries.map((delivery): SettleResult => {
        const held = this.#held.get(delivery);
        if (held === undefined) return { status: "stale" };
        held.leaseUntil = until;
        return { status: "done" };
      }),
    );
    return performed.kind === "done"
      ? performed.value
      : deliveries.map(() => ({ status: "failed", error: performed.error }));
  }

  pause(): void {
    if (this.#state === "running") this.#state = "paused";
  }

  resume(): void {
    if (this.#state === "paused") this.#state = "running";
    this.#schedule();
  }

  stop(): Promise<void> {
    this.#state = "stopped";
    this.#queue.wakers.delete(this.#schedule);
    return Promise.resolve();
  }

  async close(): Promise<void> {
    await this.stop();
    for (const forget of this.#forgetFaults) forget();
    this.#cancelTimer();
    for (const [delivery, { entry }] of this.#held) this.#giveBack(delivery, entry);
    this.#onClosed(this);
  }

  health(): SubscriptionHealth {
    const consuming = this.#state !== "stopped" && this.#connection.connected;
    const now = this.#connection.context.runtime.monotonic();
    return { consuming, silentMs: now - (this.#deafSince ?? now) };
  }

  /** Several wake-ups in one turn are one look at the queue. */
  readonly #schedule = (): void => {
    if (this.#scheduled || this.#state !== "running") return;
    this.#scheduled = true;
    this.#connection.context.runtime.defer(() => {
      this.#scheduled = false;
      this.#handOver();
    });
  };

  #handOver(): void {
    const now = this.#connection.context.runtime.monotonic();
    this.#lose(
      [...this.#held].filter(([, { leaseUntil }]) => leaseUntil <= now).map(([delivery]) => delivery),
    );
    const nextDue = ripen(this.#queue, now);
    if (this.#state === "running" && this.#deafSince === undefined) {
      const deliveries = this.#take().map((entry) => this.#hold(entry, now));
      if (deliveries.length > 0) this.#sink.deliver(deliveries);
    }
    this.#wakeAt(now, nextDue);
  }

  /** Entries that may be handed over now, taken out of the queue. Of one key, only the first that is not under way. */
  #take(): Entry[] {
    const { ready, busyKeys } = this.#queue;
    const free = this.#spec.prefetch - this.#held.size;
    const taken: Entry[] = [];
    const passed: Entry[] = [];
    let looked = 0;
    for (const entry of ready) {
      if (taken.length >= free) break;
      looked += 1;
      const key = this.#spec.order === "key" ? entry.message.key : undefined;
      if (key !== undefined && busyKeys.has(key)) {
        passed.push(entry);
        continue;
      }
      if (key !== undefined) busyKeys.add(key);
      taken.push(entry);
    }
    if (taken.length > 0) ready.splice(0, looked, ...passed);
    return taken;
  }

  #hold(entry: Entry, now: number): RawDelivery {
    const { topic, group, leaseMs } = this.#spec;
    const delivery: RawDelivery = {
      topic: topic.name,
      group,
      message: entry.message,
      position: String(entry.sequence),
      redeliveries: entry.redeliveries,
      token: entry,
    };
    this.#held.set(delivery, { entry, leaseUntil: now + leaseMs });
    return delivery;
  }

  /** Looks again when the next delayed entry is due or the next lease runs out. */
  #wakeAt(now: number, nextDue: number): void {
    this.#cancelTimer();
    const next = Math.min(nextDue, ...Array.from(this.#held.values(), ({ leaseUntil }) => leaseUntil));
    if (!Number.isFinite(next) || this.#state === "stopped") return;
    this.#cancelTimer = this.#connection.context.runtime.setTimer(next - now, () => this.#handOver(), {
      unref: true,
    });
  }

  async #settleOne(
    operation: MemoryOperation,
    delivery: RawDelivery,
    act: () => void,
  ): Promise<SettleResult> {
    return (await this.#settle(operation, [delivery], act))[0] as SettleResult;
  }

  /** What is ours is settled in one step; an answer that was lost says so although it was done. */
  async #settle(
    operation: MemoryOperation,
    deliveries: readonly RawDelivery[],
    act: (held: Held) => void,
  ): Promise<readonly SettleResult[]> {
    const performed = await this.#connection.perform(operation, () =>
      deliveries.map((delivery): SettleResult => {
        const held = this.#held.get(delivery);
        if (held === undefined) return { status: "stale" };
        this.#forget(delivery, held.entry);
        act(held);
        return { status: "done" };
      }),
    );
    return performed.kind === "done"
      ? performed.value
      : deliveries.map(() => ({ status: "failed", error: performed.error }));
  }

  #forget(delivery: RawDelivery, entry: Entry): void {
    this.#held.delete(delivery);
    if (this.#spec.order === "key" && entry.message.key !== undefined)
      this.#queue.busyKeys.delete(entry.message.key);
    wake(this.#queue);
  }

  #giveBack(delivery: RawDelivery, entry: Entry): void {
    this.#forget(delivery, entry);
    this.#connection.broker.putBack(this.#queue, entry);
  }

  #lose(deliveries: readonly RawDelivery[]): void {
    if (deliveries.length === 0) return;
    for (const delivery of deliveries) {
      const held = this.#held.get(delivery);
      if (held === undefined) continue;
      held.entry.redeliveries += 1;
      this.#giveBack(delivery, held.entry);
    }
    this.#sink.lost(deliveries);
  }
}

function patched(delivery: RawDelivery, patch: HeaderPatch): RawDelivery["message"] {
  return { ...delivery.message, headers: patchHeaders(delivery.message.headers, patch) };
}
