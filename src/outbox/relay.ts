/**
 * The relay: moves committed outbox rows to the broker. Any number may run; one holds the lease and works, the others
 * stand by. Invariants:
 *
 * 1. A row is deleted only after its broker confirmed it: nothing is lost, a crash in between sends it again with the
 *    same id.
 * 2. One page at a time, read in `seq` order from one snapshot; of one key, a row goes out only after the one before it
 *    was confirmed. A relay that lost its lease without noticing can only repeat, not reorder.
 * 3. No transaction is open and no row locked while the broker is talked to.
 * 4. The lease is database time; this process acts only before a monotonic deadline.
 * 5. The low-water mark (`low-water.ts`) never hides a row.
 * 6. A key or a topic that fails never stops others.
 */
import type { Runtime } from "../clock.ts";
import type { ErrorCode, MessagingError, PublishError } from "../errors.ts";
import type { EventListener } from "../events.ts";
import { storeError } from "../once.ts";
import type { Producer } from "../producer.ts";
import { jittered } from "../retry/loop.ts";
import { type OutboxRow, type RelayLease, type Store, orderKey } from "../store.ts";
import { type LowWater, createLowWater } from "./low-water.ts";
import { type ParkedTopics, createParkedTopics } from "./parked-topics.ts";

export interface RelayContext {
  readonly store: Store;
  readonly producer: Producer;
  readonly runtime: Runtime;
  readonly emit: EventListener;
  /** Inbox entries older than this are purged by the relay that holds the lease. */
  readonly inboxRetentionMs: number;
  /** Resolves when the store is connected. */
  ready(): Promise<void>;
  readonly onClosed: (relay: Relay) => void;
}

export interface RelayOptions {
  /** Rows read and published at a time, 1..5000. Default 500. */
  readonly batch?: number | undefined;
}

export interface Relay extends AsyncDisposable {
  /** Looks for rows now. */
  wake(): void;
  /** Whether it holds the lease, and what failed last. Cached, no I/O. */
  health(): { readonly active: boolean; readonly error?: MessagingError | undefined };
  /** Finishes what is being published, lets the lease go. Twice is fine. */
  close(): Promise<void>;
}

const leaseTtlMs = 10_000;
/** The share of the lease this process trusts itself to act in; the rest allows for the renewal's own travel. */
const leaseTrust = 0.8;
const minPollMs = 5;
const maxPollMs = 1_000;
const sendTimeoutMs = 10_000;
const sweepMs = 60_000;
const purgeBatch = 5_000;

/** About the message: no later try can succeed. */
const permanent: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "ERR_TOO_LARGE",
  "ERR_ENCODE",
  "ERR_HEADER",
  "ERR_ID",
  "ERR_CAPABILITY",
]);
/** About the destination: its topic waits, others go on. Anything else is about the connection: all wait. */
const refusals: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "ERR_NO_ROUTE",
  "ERR_DESTINATION",
  "ERR_TOPOLOGY",
  "ERR_BROKER_FULL",
  "ERR_PUBLISH",
]);

/** How publishing one row ended; only after `sent` and `parked` may the next row of its key go out. */
type RowResult = "sent" | "parked" | "refused" | "failed";

export function startRelay(context: RelayContext, options: { readonly batch: number }): Relay {
  const relay = new RunningRelay(context, options.batch);
  relay.start();
  return relay;
}

class RunningRelay implements Relay {
  readonly #context: RelayContext;
  readonly #batch: number;
  readonly #owner: string;
  readonly #closing = new AbortController();
  readonly #backoff: (attempt: number) => number;
  #lease: { readonly epoch: bigint; deadline: number } | undefined;
  #error: MessagingError | undefined;
  #loop: Promise<void> = Promise.resolve();
  #wake: (() => void) | undefined;
  #woken = false;

  constructor(context: RelayContext, batch: number) {
    this.#context = context;
    this.#batch = batch;
    this.#owner = context.runtime.newId();
    this.#backoff = jittered(context.runtime, "relay", 100, 30_000);
  }

  start(): void {
    this.#loop = this.#run();
  }

  wake(): void {
    this.#woken = true;
    this.#wake?.();
  }

  health(): { readonly active: boolean; readonly error?: MessagingError | undefined } {
    return { active: this.#lease !== undefined, error: this.#error };
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#wake?.();
    await this.#loop;
    this.#context.onClosed(this);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Stands by, works while it holds the lease, and starts over after any failure of the store. */
  async #run(): Promise<void> {
    let failures = 0;
    while (!this.#closing.signal.aborted) {
      try {
        await this.#context.ready();
        const lease = await this.#acquire();
        if (lease !== undefined) await this.#work(lease.epoch);
        failures = 0;
        this.#error = undefined;
        if (lease === undefined) await this.#sleep(maxPollMs);
      } catch (error) {
        failures += 1;
        const delayMs = this.#backoff(failures);
        this.#error = storeError(error);
        this.#context.emit({ type: "relayFailed", error: this.#error, delayMs });
        await this.#sleep(delayMs);
      }
    }
  }

  async #acquire(): Promise<RelayLease | undefined> {
    const asked = this.#context.runtime.monotonic();
    const lease = await this.#context.store.outbox.acquire(this.#owner, leaseTtlMs);
    if (lease !== undefined) this.#lease = { epoch: lease.epoch, deadline: asked + leaseTtlMs * leaseTrust };
    return lease;
  }

  async #work(epoch: bigint): Promise<void> {
    const renewals = new AbortController();
    const renewing = this.#keepLease(epoch, renewals.signal);
    try {
      await this.#relayWhileHeld(epoch);
    } finally {
      renewals.abort();
      await renewing;
      const held = this.#lease !== undefined;
      this.#lease = undefined;
      // A lease that cannot be let go runs out by itself.
      if (held) await this.#context.store.outbox.surrender(this.#owner, epoch).catch(() => undefined);
    }
  }

  async #keepLease(epoch: bigint, ended: AbortSignal): Promise<void> {
    const { runtime, store } = this.#context;
    for (;;) {
      const slept = await runtime.sleep(leaseTtlMs / 3, ended).then(
        () => true,
        () => false,
      );
      if (!slept) return;
      const asked = runtime.monotonic();
      // A renewal that fails is not the end: the deadline stands, and the next one may succeed before it.
      const renewed = await store.outbox.renew(this.#owner, epoch, leaseTtlMs).catch(() => undefined);
      if (renewed === false) this.#lease = undefined;
      if (this.#lease === undefined) return;
      if (renewed === true) this.#lease.deadline = asked + leaseTtlMs * leaseTrust;
    }
  }

  #holdsLease(): boolean {
    if (this.#lease !== undefined && this.#context.runtime.monotonic() > this.#lease.deadline)
      this.#lease = undefined;
    return this.#lease !== undefined;
  }

  async #relayWhileHeld(epoch: bigint): Promise<void> {
    const { runtime, store } = this.#context;
    const lowWater = createLowWater();
    const topics = createParkedTopics(runtime);
    let pollMs = minPollMs;
    let failures = 0;
    let sweptAt = runtime.monotonic();
    while (!this.#closing.signal.aborted) {
      if (runtime.monotonic() - sweptAt > sweepMs) {
        sweptAt = runtime.monotonic();
        lowWater.sweep();
        await store.inbox.purge(this.#context.inboxRetentionMs, purgeBatch);
      }
      const parkedTopics = topics.parked();
      const page = await store.outbox.fetch({ above: lowWater.low, parkedTopics, limit: this.#batch });
      if (!this.#holdsLease()) return;
      lowWater.saw(page, page.rows.length === this.#batch);
      if (page.rows.length === 0) {
        pollMs = this.#woken ? minPollMs : Math.min(pollMs * 2, maxPollMs);
        this.#woken = false;
        await this.#sleep(pollMs);
        continue;
      }
      pollMs = minPollMs;
      const results = await this.#publish(page.rows, epoch, topics);
      if (!(await this.#remove(results, epoch, lowWater))) return;
      failures = [...results.values()].includes("failed") ? failures + 1 : 0;
      if (failures > 0) await this.#sleep(this.#backoff(failures));
    }
  }

  /** `false`: another relay has taken over. */
  async #remove(
    results: ReadonlyMap<OutboxRow, RowResult>,
    epoch: bigint,
    lowWater: LowWater,
  ): Promise<boolean> {
    const ended = (result: RowResult): bigint[] =>
      Array.from(results).flatMap(([row, is]) => (is === result ? [row.seq] : []));
    lowWater.gone(ended("parked"));
    const sent = ended("sent");
    if (sent.length === 0) return true;
    const { fenced, mark } = await this.#context.store.outbox.remove(sent, epoch);
    if (fenced) return false;
    lowWater.removed(sent, mark);
    this.#context.emit({ type: "relayed", count: sent.length });
    return true;
  }

  /** Publishes a page: keys in parallel, the rows of one key one after another. */
  async #publish(
    rows: readonly OutboxRow[],
    epoch: bigint,
    topics: ParkedTopics,
  ): Promise<ReadonlyMap<OutboxRow, RowResult>> {
    const chains = Map.groupBy(rows, (row) => orderKey(row) ?? row.seq);
    const results = new Map<OutboxRow, RowResult>();
    await Promise.all(
      Array.from(chains.values(), async (chain) => {
        for (const row of chain) {
          const result = await this.#publishRow(row, epoch, topics);
          results.set(row, result);
          if (result === "refused" || result === "failed") return;
        }
      }),
    );
    return results;
  }

  async #publishRow(row: OutboxRow, epoch: bigint, topics: ParkedTopics): Promise<RowResult> {
    const { producer, store, emit } = this.#context;
    const topic = row.destination.topic.name;
    try {
      await producer.send({ ...row, requireRoute: true }, sendTimeoutMs);
      topics.accepted(topic);
      return "sent";
    } catch (cause) {
      const error = cause as PublishError;
      if (permanent.has(error.code)) {
        const { fenced } = await store.outbox.park(row, epoch, error.message);
        if (fenced) return "refused";
        emit({ type: "relayParked", topic, messageId: error.messageId, error });
        return "parked";
      }
      this.#error = error;
      const delayMs = refusals.has(error.code) ? topics.refused(topic) : undefined;
      emit({ type: "relayFailed", error, delayMs: delayMs ?? 0 });
      return delayMs === undefined ? "failed" : "refused";
    }
  }

  async #sleep(ms: number): Promise<void> {
    const { runtime } = this.#context;
    if (this.#closing.signal.aborted) return;
    await new Promise<void>((resolve) => {
      const cancel = runtime.setTimer(ms, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
    this.#wake = undefined;
  }
}
