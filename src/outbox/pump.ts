/** What a relay does while it holds the lease: fetch, publish and delete, all three at once. */
import type { Runtime } from "../clock.ts";
import type { MessagingError } from "../errors.ts";
import type { EventListener } from "../events.ts";
import type { Producer } from "../producer.ts";
import { jittered } from "../retry/loop.ts";
import { type OutboxPage, type OutboxRow, type RelayOrder, type Store, orderKey } from "../store.ts";
import { type LowWater, createLowWater } from "./low-water.ts";
import { type ParkedTopics, createParkedTopics } from "./parked-topics.ts";
import { publishRow } from "./publish-row.ts";
import { type Removal, createRemoval } from "./removal.ts";
import { type Transit, createTransit } from "./transit.ts";
import type { Waiting } from "./waiting.ts";

export interface PumpContext {
  readonly store: Store;
  readonly producer: Producer;
  readonly runtime: Runtime;
  readonly emit: EventListener;
  /** Rows read at a time. */
  readonly batch: number;
  readonly order: RelayOrder;
  readonly waiting: Waiting;
  readonly epoch: bigint;
  /** Whether to go on: the lease is held, and nobody closes. */
  mayWork(): boolean;
  /** Inbox entries older than this are purged. */
  readonly inboxRetentionMs: number;
  /** What failed last; `undefined` when all is well again. */
  readonly onError: (error: MessagingError | undefined) => void;
}

export const maxPollMs = 1_000;
const minPollMs = 5;
const sweepMs = 60_000;
const purgeBatch = 5_000;

/** What must keep its order, by mode. */
const chains: Readonly<Record<RelayOrder, (row: OutboxRow) => string | undefined>> = {
  none: () => undefined,
  key: orderKey,
  global: () => "",
};

/** Resolves when it may work no more and nothing is on its way. Rejects when the store fails. */
export async function pump(context: PumpContext): Promise<void> {
  const work = new Work(context);
  try {
    await work.run();
  } finally {
    await work.end();
  }
  work.throwFailure();
}

class Work {
  readonly #context: PumpContext;
  readonly #lowWater: LowWater = createLowWater();
  readonly #topics: ParkedTopics;
  readonly #removal: Removal;
  readonly #transit: Transit;
  readonly #backoff: (attempt: number) => number;
  #stopped = false;
  #failure: { readonly error: unknown } | undefined;
  #changed = Promise.withResolvers<void>();
  #failures = 0;
  #sweptAt = -Infinity;

  constructor(context: PumpContext) {
    const { store, producer, runtime, emit, order, epoch } = context;
    const lowWater = this.#lowWater;
    const topics = createParkedTopics(runtime);
    this.#context = context;
    this.#topics = topics;
    this.#backoff = jittered(runtime, "relay", 100, 30_000);
    this.#removal = createRemoval({
      outbox: store.outbox,
      epoch,
      lowWater,
      onRemoved: (seqs) => {
        this.#transit.forget(seqs);
        emit({ type: "relayed", count: seqs.length });
      },
      onEnded: (error) => {
        this.#stopped = true;
        if (error !== undefined) this.#failure ??= { error };
      },
    });
    const publishing = {
      outbox: store.outbox,
      producer,
      emit,
      epoch,
      lowWater,
      topics: order === "global" ? undefined : topics,
      onError: context.onError,
    };
    this.#transit = createTransit({
      chainOf: chains[order],
      mayPublish: () => this.#mayWork(),
      publish: (row) => publishRow(publishing, row),
      onSent: ({ seq }) => this.#removal.add(seq),
      onChange: () => this.#changed.resolve(),
    });
  }

  async run(): Promise<void> {
    const { batch, waiting } = this.#context;
    let pollMs = minPollMs;
    while (this.#mayWork()) {
      await this.#tidy();
      // The next rows are to be here when the broker has confirmed those before.
      await this.#until(() => this.#transit.waiting <= batch);
      if (await this.#pausedByFailure()) continue;
      const { woken } = waiting;
      waiting.look();
      const taken = await this.#fetch();
      if (taken === undefined) continue;
      // What it was woken for may still have to be committed: soon, as a rule.
      pollMs = taken > 0 || woken || waiting.woken ? minPollMs : Math.min(pollMs * 2, maxPollMs);
      if (taken < batch && !waiting.woken) await waiting.sleep(pollMs);
    }
  }

  /** What is under way is finished; what is not goes out with a later fetch, whoever makes it. */
  async end(): Promise<void> {
    this.#stopped = true;
    await this.#until(() => this.#transit.waiting === 0);
    await this.#removal.idle();
  }

  throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    const { error } = this.#transit.outcomes();
    if (error !== undefined) throw error;
  }

  #mayWork(): boolean {
    return !this.#stopped && this.#context.mayWork();
  }

  /** How many rows went on their way; `undefined`: look again at once. */
  async #fetch(): Promise<number | undefined> {
    const { store, batch, onError } = this.#context;
    const parkedTopics = this.#topics.parked();
    const fetch = this.#transit.beginFetch();
    const page = await store.outbox.fetch({
      above: this.#lowWater.low,
      except: [...this.#transit.taken],
      parkedTopics,
      limit: batch,
    });
    if (!this.#mayWork()) return undefined;
    this.#lowWater.saw(page, parkedTopics.length > 0);
    const rows = this.#ready(page);
    this.#transit.take(rows, fetch);
    if (page.rows.length === 0 && this.#transit.waiting === 0 && parkedTopics.length === 0)
      onError(undefined);
    if (rows.length === page.rows.length || !this.#lowWater.needsMark) return rows.length;
    await this.#removal.mark();
    return undefined;
  }

  /** In one order for all, nothing goes out that a row still to be committed may belong before. */
  #ready({ rows }: OutboxPage): readonly OutboxRow[] {
    if (this.#context.order !== "global") return rows;
    const end = rows.findIndex(({ seq }) => seq > this.#lowWater.proven);
    return end === -1 ? rows : rows.slice(0, end);
  }

  /** A broker that cannot be reached is left alone for a while. */
  async #pausedByFailure(): Promise<boolean> {
    const { error, sent, refused, failed } = this.#transit.outcomes();
    if (error !== undefined) throw error;
    if (failed > 0) {
      await this.#until(() => this.#transit.waiting === 0);
      this.#failures += 1;
      await this.#context.waiting.pause(this.#backoff(this.#failures));
      return true;
    }
    if (sent > 0) {
      this.#failures = 0;
      if (refused === 0) this.#context.onError(undefined);
    }
    return false;
  }

  /** From time to time: starts over from the bottom, and purges the inbox. */
  async #tidy(): Promise<void> {
    const { runtime, store, inboxRetentionMs } = this.#context;
    if (runtime.monotonic() - this.#sweptAt <= sweepMs) return;
    this.#sweptAt = runtime.monotonic();
    this.#lowWater.sweep();
    // All that is old enough, however much there is: an inbox that grows faster than it is purged grows for ever.
    while (this.#mayWork()) {
      if ((await store.inbox.purge(inboxRetentionMs, purgeBatch)) < purgeBatch) return;
    }
  }

  async #until(done: () => boolean): Promise<void> {
    while (!done()) {
      this.#changed = Promise.withResolvers();
      await this.#changed.promise;
    }
  }
}
