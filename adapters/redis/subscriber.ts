/** One subscription: reads while there is credit, hands over, and settles what it holds. */
import { hostname } from "node:os";
import {
  type DeliverySink,
  type HeaderPatch,
  type MessagingError,
  type RawDelivery,
  type SettleResult,
  type SubscribeSpec,
  type Subscription,
  type SubscriptionHealth,
  jittered,
  retryLoop,
} from "../../src/spi.ts";
import { createCompetingReader } from "./competing.ts";
import type { RedisConnection } from "./connection.ts";
import type { Held, ReadEntry } from "./entry.ts";
import { requestError } from "./errors.ts";
import { declareGroup, trim } from "./groups.ts";
import { groupKeys } from "./keys.ts";
import type { Link } from "./link.ts";
import { decodeMessage } from "./mapping.ts";
import { createOwnedReader } from "./owned.ts";
import type { Reader } from "./reader.ts";
import { type Reports, createReports } from "./reports.ts";
import { type Settler, createSettler } from "./settle.ts";
import { Window } from "./window.ts";

/** How often what nobody needs any more is removed. */
const trimEveryMs = 5_000;
/** A read under way ends by itself within half of this. */
const stopWithinMs = 1_000;
/** Leaving may not take longer, whatever the server does. */
const leaveWithinMs = 2_000;

export class RedisSubscription implements Subscription {
  readonly #connection: RedisConnection;
  readonly #spec: SubscribeSpec;
  readonly #sink: DeliverySink;
  readonly #link: Link;
  readonly #reader: Reader;
  readonly #settler: Settler;
  readonly #window: Window;
  readonly #reports: Reports;
  readonly #settling = new Set<Promise<unknown>>();
  readonly #stopping = new AbortController();
  readonly #onClosed: (subscription: RedisSubscription) => void;
  #state: "running" | "paused" | "stopped" = "running";
  #loop: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;
  #wake: () => void = () => undefined;
  #error: MessagingError | undefined;
  #readerId: number | undefined;
  #generation = 0;
  /** The group has vanished from the server. */
  #vanished = false;
  #settledSinceTrim = false;
  #trimAt = 0;
  /** When the read under way began: each ends within the time limit of its request. */
  #readAt: number;

  constructor(
    connection: RedisConnection,
    spec: SubscribeSpec,
    sink: DeliverySink,
    onClosed: (subscription: RedisSubscription) => void,
  ) {
    const { topic, group, leaseMs } = spec;
    const { runtime } = connection;
    this.#connection = connection;
    this.#spec = spec;
    this.#sink = sink;
    this.#onClosed = onClosed;
    this.#readAt = runtime.monotonic();
    this.#window = new Window(spec.prefetch);
    this.#reports = createReports(connection, spec);
    this.#link = connection.openLink(`${topic.name}--${group}`, async (redis) => {
      // Not every user may ask; then stopping waits for the blocking read to end.
      this.#readerId = await redis.client("ID").catch(() => undefined);
    });
    const keys = groupKeys(connection.prefix, spec);
    // Never used again: what is pending for it is this subscription's and nobody else's.
    const consumer = `${hostname()}-${process.pid}-${runtime.newId().slice(-12)}`;
    const createReader = spec.order === "key" ? createOwnedReader : createCompetingReader;
    this.#reader = createReader({
      connection,
      link: this.#link,
      identity: { keys, group, consumer },
      leaseMs,
      runtime,
      signal: this.#stopping.signal,
      holds: (entry) => this.#window.has(entry),
      onDeleted: this.#reports.deleted,
      onTrouble: this.#reports.delayed,
      onDisowned: () => this.#lose(this.#window.values()),
    });
    this.#settler = createSettler({
      connection,
      keys,
      topic: topic.name,
      group,
      consumer,
      ownership: () => this.#reader.ownership(),
      heldCount: () => this.#window.size,
    });
  }

  /** Makes the group and starts reading. */
  async start(): Promise<void> {
    try {
      await declareGroup(this.#connection, this.#spec);
      await this.#link.connect();
    } catch (error) {
      this.#connection.closeLink(this.#link);
      throw error;
    }
    this.#generation = this.#link.generation;
    this.#loop = this.#run();
  }

  ack(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return this.#settle(deliveries, (helds) => this.#settler.ack(helds));
  }

  defer(delivery: RawDelivery, delayMs: number, patch: HeaderPatch): Promise<SettleResult> {
    return this.#settleOne(delivery, (held) => this.#settler.defer(held, delayMs, patch));
  }

  deadLetter(delivery: RawDelivery, patch: HeaderPatch): Promise<SettleResult> {
    return this.#settleOne(delivery, (held) => this.#settler.deadLetter(held, patch));
  }

  async release(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    const results = await this.#settle(deliveries, (helds) => this.#settler.release(helds));
    this.#reader.givenBack();
    return results;
  }

  async extend(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    const helds = deliveries.map((delivery) => this.#window.of(delivery));
    const results = await this.#extend(helds.filter((held) => held !== undefined));
    return helds.map((held) =>
      held === undefined ? { status: "stale" } : (results.get(held) as SettleResult),
    );
  }

  pause(): void {
    if (this.#state === "running") this.#state = "paused";
  }

  resume(): void {
    if (this.#state === "paused") this.#state = "running";
    this.#wake();
  }

  async stop(): Promise<void> {
    if (this.#state !== "stopped") {
      this.#state = "stopped";
      this.#stopping.abort(new Error("the subscription stops"));
      this.#wake();
      this.#unblock();
    }
    if (!(await this.#within(stopWithinMs, this.#loop))) this.#link.close();
    await this.#loop;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  health(): SubscriptionHealth {
    const error = this.#error ?? this.#link.error ?? this.#connection.commands.error;
    const up = this.#link.up && this.#connection.commands.up;
    const reads = this.#state === "running" && this.#window.credit > 0;
    const silentMs = reads ? this.#connection.runtime.monotonic() - this.#readAt : 0;
    return { consuming: this.#state !== "stopped" && up && error === undefined, error, silentMs };
  }

  async #run(): Promise<void> {
    const { runtime } = this.#connection;
    const backoff = jittered(runtime, "consumer", 200, 5_000);
    while (this.#state !== "stopped" && !this.#ended) {
      await retryLoop(
        (ms) => runtime.sleep(ms, this.#stopping.signal),
        () => this.#step(),
        (error, attempt) => (this.#state === "stopped" ? undefined : this.#mend(error, attempt, backoff)),
      ).catch(() => undefined); // Only stopping ends the loop, and `#mend` has said whatever else there was.
    }
    this.#error ??= this.#link.error ?? this.#connection.commands.error;
  }

  /** Its connections are closed, or were refused for good. */
  get #ended(): boolean {
    return this.#link.ended || this.#connection.commands.ended;
  }

  async #step(): Promise<void> {
    const credit = await this.#ready();
    if (credit === 0) return;
    if (this.#generation !== this.#link.generation) {
      this.#generation = this.#link.generation;
      this.#reader.interrupted();
      await this.#checkHeld();
    }
    if (this.#vanished) await this.#restoreGroup();
    await this.#trimSometimes();
    const entries = await this.#reader.read(credit);
    this.#error = undefined;
    this.#handOver(entries);
  }

  /** Resolves with the credit when there is some and the server can be reached; with 0 when it is of no use to go on. */
  async #ready(): Promise<number> {
    const { signal } = this.#stopping;
    const commands = this.#connection.commands;
    while (!signal.aborted) {
      await this.#link.settled(signal);
      await commands.settled(signal);
      if (this.#ended) return 0;
      // Nothing is awaited between here and the wait: whatever wakes it comes after.
      const { credit } = this.#window;
      if (signal.aborted || !this.#link.up || !commands.up) continue;
      if (this.#state === "running" && credit > 0) {
        this.#readAt = this.#connection.runtime.monotonic();
        return credit;
      }
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return 0;
  }

  /** How long to wait after a read that failed; what can be put right is, before the next one. */
  #mend(cause: unknown, attempt: number, backoff: (attempt: number) => number): number {
    const error = requestError("reading", cause);
    if (error.code === "ERR_CONNECTION_LOST") {
      this.#reader.interrupted();
      return 0;
    }
    if (error.reply === "NOGROUP" || error.reply === "UNBLOCKED") {
      this.#vanished = true;
      return attempt === 1 ? 0 : backoff(attempt);
    }
    this.#error = error;
    this.#reports.notReceiving(error);
    return backoff(attempt);
  }

  #handOver(entries: readonly ReadEntry[]): void {
    // Claimed by ourselves, because the lease ran out unnoticed, is what goes on being handled.
    const helds = entries.filter((entry) => !this.#window.has(entry)).map((entry) => this.#hold(entry));
    const { taken, left } = this.#state === "running" ? this.#window.take(helds) : { taken: [], left: helds };
    if (left.length > 0) this.#giveBack(left);
    if (taken.length > 0) this.#sink.deliver(taken.map(({ delivery }) => delivery));
  }

  #hold(entry: ReadEntry): Held {
    const { topic, group } = this.#spec;
    const { source, id, fields, redeliveries } = entry;
    const position = source === "main" ? id : `${group}/${id}`;
    const message = decodeMessage(fields);
    const delivery = { topic: topic.name, group, message, position, redeliveries, token: entry };
    return { source, id, fields, redeliveries, delivery, orphaned: false, unanswered: false };
  }

  /** What came after pausing or stopping, or beyond the credit: somebody else may have it. */
  #giveBack(surplus: readonly Held[]): void {
    const released = this.#settler.release(surplus).then((results) => {
      // Still pending for us: found again like a hand-over that got lost.
      if (results.some(({ status }) => status === "failed")) this.#reader.interrupted();
      this.#reader.givenBack();
    });
    this.#track(released);
  }

  async #settleOne(delivery: RawDelivery, act: (held: Held) => Promise<SettleResult>): Promise<SettleResult> {
    const results = await this.#settle([delivery], async ([held]) => [await act(held as Held)]);
    return results[0] as SettleResult;
  }

  /** Settles what is ours; all that has an end is ours no longer. */
  #settle(
    deliveries: readonly RawDelivery[],
    act: (helds: readonly Held[]) => Promise<readonly SettleResult[]>,
  ): Promise<readonly SettleResult[]> {
    const helds = deliveries.map((delivery) => this.#window.of(delivery));
    const ours = helds.filter((held) => held !== undefined);
    if (ours.length === 0) return Promise.resolve(helds.map(() => ({ status: "stale" })));
    const settled = act(ours).then((results) => {
      ours.forEach((held, i) => {
        if (results[i]?.status !== "failed") this.#forget(held);
      });
      this.#settledSinceTrim = true;
      let i = 0;
      return helds.map((held): SettleResult =>
        held === undefined ? { status: "stale" } : (results[i++] as SettleResult),
      );
    });
    this.#track(settled);
    return settled;
  }

  #track(work: Promise<unknown>): void {
    this.#settling.add(work);
    const forget = (): void => void this.#settling.delete(work);
    work.then(forget, forget);
  }

  #forget(held: Held): void {
    this.#window.forget(held);
    this.#wake();
  }

  /** Renews leases; says at once which deliveries are not ours any more. */
  async #extend(helds: readonly Held[]): Promise<ReadonlyMap<Held, SettleResult>> {
    // What exists only here cannot be taken by anybody.
    const known = helds.filter(({ orphaned }) => !orphaned);
    const settled = known.length === 0 ? [] : await this.#settler.extend(known);
    const results = new Map<Held, SettleResult>(helds.map((held) => [held, { status: "done" }]));
    const stale: Held[] = [];
    let orphans = 0;
    known.forEach((held, i) => {
      const result = settled[i] ?? { status: "stale" };
      if (result.status === "orphaned") {
        held.orphaned = true;
        orphans += 1;
        return;
      }
      results.set(held, result);
      if (result.status === "stale") stale.push(held);
    });
    if (orphans > 0) this.#reports.orphaned(orphans);
    this.#lose(stale);
    return results;
  }

  /** After a break: what ran out meanwhile, or was lost with the server, is not ours any more. */
  async #checkHeld(): Promise<number> {
    const helds = this.#window.values();
    const results = await this.#extend(helds);
    return helds.filter((held) => results.get(held)?.status === "stale").length;
  }

  #lose(helds: readonly Held[]): void {
    const lost = helds.filter((held) => this.#window.holds(held));
    if (lost.length === 0) return;
    for (const held of lost) this.#forget(held);
    this.#sink.lost(lost.map(({ delivery }) => delivery));
  }

  /** FLUSHALL, a deleted stream or group, a failover to an empty replica: all of it may have happened. */
  async #restoreGroup(): Promise<void> {
    await declareGroup(this.#connection, this.#spec);
    const count = await this.#checkHeld();
    this.#vanished = false;
    this.#reports.vanished(count);
  }

  async #trimSometimes(): Promise<void> {
    const now = this.#connection.runtime.monotonic();
    if (!this.#settledSinceTrim || now < this.#trimAt) return;
    this.#trimAt = now + trimEveryMs;
    this.#settledSinceTrim = false;
    // Nobody has to wait for it: what is not removed now is later.
    await trim(this.#connection, this.#spec).catch(this.#reports.notTrimmed);
  }

  /** Ends the blocking read under way. Where that is not allowed, it ends by itself within half a second. */
  #unblock(): void {
    const id = this.#readerId;
    if (id === undefined || !this.#connection.commands.up) return;
    this.#connection.commands
      .request("ending the blocking read", (redis) => redis.client("UNBLOCK", id))
      .catch(() => undefined);
  }

  async #close(): Promise<void> {
    await this.stop();
    await this.#within(leaveWithinMs, Promise.allSettled(this.#settling));
    const orphans = this.#window.values().filter(({ orphaned }) => orphaned);
    this.#window.clear();
    const leave = async (): Promise<void> => {
      await this.#settler.release(orphans);
      await this.#settler.leave();
      await this.#reader.leave();
    };
    // Without the server, leases do it instead.
    if (this.#connection.commands.up)
      await this.#within(
        leaveWithinMs,
        leave().catch(() => undefined),
      );
    this.#connection.closeLink(this.#link);
    this.#onClosed(this);
  }

  /** Whether `work` is done in time. */
  #within(ms: number, work: Promise<unknown>): Promise<boolean> {
    return new Promise((resolve) => {
      const cancel = this.#connection.runtime.setTimer(ms, () => resolve(false));
      void work
        .catch(() => undefined)
        .then(() => {
          cancel();
          resolve(true);
        });
    });
  }
}
