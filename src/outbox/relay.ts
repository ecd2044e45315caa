/**
 * The relay: moves committed outbox rows to the broker. Any number may run; one holds the lease and works, the others
 * stand by. Invariants:
 *
 * 1. A row is deleted only after its broker confirmed it: nothing is lost, a crash in between sends it again with the
 *    same id.
 * 2. Every fetch begins at the low-water mark, reads in `seq` order from one snapshot, and leaves out only what is on its
 *    way; of one key, a row goes out only after the one before it was confirmed. A relay that lost its lease without
 *    noticing can only repeat, not reorder.
 * 3. No transaction is open and no row locked while the broker is talked to.
 * 4. The lease is database time; this process acts only before a monotonic deadline.
 * 5. The low-water mark (`low-water.ts`) never hides a row.
 * 6. A key or a topic that fails never stops others.
 */
import type { Runtime } from "../clock.ts";
import { ConfigurationError, type MessagingError } from "../errors.ts";
import type { EventListener } from "../events.ts";
import { storeError } from "../once.ts";
import type { Producer } from "../producer.ts";
import { jittered } from "../retry/loop.ts";
import type { Backlog, RelayLease, RelayOrder, Store } from "../store.ts";
import { maxPollMs, pump } from "./pump.ts";
import type { CheckedRelayOptions } from "./relay-options.ts";
import { type Waiting, createWaiting } from "./waiting.ts";

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

export interface RelayHealth {
  /** It holds the lease. */
  readonly active: boolean;
  /** What waited, at most some seconds ago; `undefined` in one that stands by. */
  readonly backlog: Omit<Backlog, "relayed"> | undefined;
  /** What failed last. */
  readonly error?: MessagingError | undefined;
}

export interface Relay extends AsyncDisposable {
  /** Looks for rows now. */
  wake(): void;
  /** Cached, no I/O. */
  health(): RelayHealth;
  /** Finishes what is being published, lets the lease go. Twice is fine. */
  close(): Promise<void>;
}

const leaseTtlMs = 3_000;
/** The share of the lease this process trusts itself to act in; the rest allows for the renewal's own travel. */
const leaseTrust = 0.8;
/** What one waits that made way for a relay with an order of its own: longer than that one between two attempts. */
const makeWayMs = 2 * maxPollMs;
/** What waits is looked at with every third renewal of the lease. */
const renewalsPerGauge = 3;
/** Before notices are listened for again when their connection broke. */
const relistenMs = 5_000;

export function startRelay(context: RelayContext, options: CheckedRelayOptions): Relay {
  const relay = new RunningRelay(context, options);
  relay.start();
  return relay;
}

class RunningRelay implements Relay {
  readonly #context: RelayContext;
  readonly #options: CheckedRelayOptions;
  readonly #owner: string;
  readonly #closing = new AbortController();
  readonly #waiting: Waiting;
  readonly #backoff: (attempt: number) => number;
  /** `makesWay`: another relay named an order of its own. */
  #lease: { deadline: number; makesWay: boolean } | undefined;
  #refused = false;
  #backlog: RelayHealth["backlog"];
  #error: MessagingError | undefined;
  #loop: Promise<void> = Promise.resolve();

  constructor(context: RelayContext, options: CheckedRelayOptions) {
    const { runtime } = context;
    this.#context = context;
    this.#options = options;
    this.#owner = runtime.newId();
    this.#waiting = createWaiting(runtime, this.#closing.signal);
    this.#backoff = jittered(runtime, "relay", 100, 30_000);
  }

  start(): void {
    this.#loop = this.#run();
  }

  wake(): void {
    this.#waiting.wake();
  }

  health(): RelayHealth {
    return { active: this.#lease !== undefined, backlog: this.#backlog, error: this.#error };
  }

  async close(): Promise<void> {
    this.#closing.abort();
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
        if (lease !== undefined) await this.#work(lease);
        else await this.#standBy();
        failures = 0;
      } catch (error) {
        failures += 1;
        const delayMs = this.#backoff(failures);
        this.#error = storeError(error);
        this.#context.emit({ type: "relayFailed", error: this.#error, delayMs });
        await this.#waiting.pause(delayMs);
      }
    }
  }

  async #acquire(): Promise<RelayLease | undefined> {
    const asked = this.#context.runtime.monotonic();
    const lease = await this.#context.store.outbox.acquire(this.#owner, leaseTtlMs, this.#options.order);
    if (lease === undefined) return undefined;
    this.#refused = false;
    this.#error = undefined;
    this.#lease = { deadline: asked + leaseTtlMs * leaseTrust, makesWay: false };
    return lease;
  }

  /** Until it is time to ask for the lease again. */
  async #standBy(): Promise<void> {
    const { store, emit } = this.#context;
    const { order } = this.#options;
    const inForce = order === undefined ? order : await store.outbox.requestOrder(order);
    const refused = inForce !== order;
    if (!refused) this.#error = undefined;
    else if (!this.#refused) {
      const message = `relay order "${order}": a relay of this database is at work that was given "${inForce}". Give all of them the same, or none but one; this one stands by until that one ends`;
      this.#error = new ConfigurationError("ERR_CONFIG", message);
      emit({ type: "relayFailed", error: this.#error, delayMs: maxPollMs });
    }
    this.#refused = refused;
    await this.#waiting.pause(maxPollMs);
  }

  async #work({ epoch, order }: RelayLease): Promise<void> {
    const ended = new AbortController();
    const beside = Promise.all([this.#keepLease(epoch, order, ended.signal), this.#listen(ended.signal)]);
    try {
      await pump({
        ...this.#context,
        batch: this.#options.batch,
        order,
        waiting: this.#waiting,
        epoch,
        mayWork: () => !this.#closing.signal.aborted && this.#holdsLease() && this.#lease?.makesWay === false,
        onError: (error) => void (this.#error = error),
      });
    } finally {
      ended.abort();
      await beside;
      const held = this.#lease;
      this.#lease = undefined;
      this.#backlog = undefined;
      // A lease that cannot be let go runs out by itself.
      if (held !== undefined)
        await this.#context.store.outbox.surrender(this.#owner, epoch).catch(() => undefined);
      if (held?.makesWay === true) await this.#waiting.pause(makeWayMs);
    }
  }

  async #keepLease(epoch: bigint, order: RelayOrder, ended: AbortSignal): Promise<void> {
    const { runtime, store } = this.#context;
    for (let renewals = 0; ; renewals += 1) {
      if (!(await this.#slept(leaseTtlMs / 3, ended))) return;
      const asked = runtime.monotonic();
      let inForce: RelayOrder | undefined;
      try {
        inForce = await store.outbox.renew(this.#owner, epoch, leaseTtlMs);
      } catch {
        // Not the end: the deadline stands, and the next one may succeed before it.
        continue;
      }
      if (inForce === undefined) this.#lease = undefined;
      if (this.#lease === undefined) return;
      this.#lease.deadline = asked + leaseTtlMs * leaseTrust;
      if (inForce !== order) {
        this.#lease.makesWay = true;
        this.#waiting.wake();
      }
      if (renewals % renewalsPerGauge === 0) void this.#gauge();
    }
  }

  /** Says what waits. Its cost has a bound, and without it nothing is worse. */
  async #gauge(): Promise<void> {
    const { store, emit } = this.#context;
    const found = await store.outbox.backlog().catch(() => undefined);
    if (found === undefined || this.#lease === undefined) return;
    const { depth, oldestMs, parked } = found;
    this.#backlog = { depth, oldestMs, parked };
    emit({ type: "backlog", depth, oldestMs, parked });
  }

  /** Hears of commits in other processes, where the database can tell. Without it they are found by looking. */
  async #listen(ended: AbortSignal): Promise<void> {
    const { store, emit } = this.#context;
    if (store.outbox.listen === undefined) return;
    do {
      try {
        if (await store.outbox.listen(() => this.wake(), ended)) return;
        const message = `notices of "${store.name}" do not arrive (is there a pooler in transaction mode?): messages sent by other processes wait up to ${maxPollMs} ms`;
        return emit({ type: "warning", code: "RELAY_NOTICES", message });
      } catch {
        // The connection broke. Whatever was missed is found by looking.
      }
    } while (await this.#slept(relistenMs, ended));
  }

  /** `false`: it ended first. */
  #slept(ms: number, ended: AbortSignal): Promise<boolean> {
    return this.#context.runtime.sleep(ms, ended).then(
      () => true,
      () => false,
    );
  }

  #holdsLease(): boolean {
    if (this.#lease !== undefined && this.#context.runtime.monotonic() > this.#lease.deadline)
      this.#lease = undefined;
    return this.#lease !== undefined;
  }
}
