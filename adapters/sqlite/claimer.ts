/** When to claim: after a wake-up, when something is due, when a lease runs out, and after a failure with growing waits. */
import {
  type Cancel,
  type MessagingError,
  type Runtime,
  type SubscribeSpec,
  jittered,
} from "../../src/spi.ts";
import { type Claim, type Glance, claim, glance, ripen } from "./claims.ts";
import type { SqliteConnection } from "./connection.ts";
import { brokerError } from "./errors.ts";
import type { Sql } from "./sql.ts";
import { outsideTransactions } from "./transaction.ts";

/** Deliveries claimed in one write at most; more come with the next. */
const claimLimit = 250;
/** Looks at least so often, whatever it believes of the next due time: the wall clock may be set. */
const maxWaitMs = 1_000;
/** Leases last so much longer than asked for: time for a holder that was kept from writing until the last moment. */
const leaseMarginMs = 250;
/** Until leases that have run out are looked at again, while their holders have the first turn. */
const graceWaitMs = 100;

export interface ClaimerContext {
  readonly connection: SqliteConnection;
  readonly spec: SubscribeSpec;
  /** Whether anything may be handed over. */
  readonly isRunning: () => boolean;
  /** Places in the window that are not taken. */
  readonly free: () => number;
  /** Gets what was claimed. */
  readonly taken: (claim: Claim) => void;
}

export class Claimer {
  readonly #context: ClaimerContext;
  readonly #runtime: Runtime;
  readonly #backoff: (attempt: number) => number;
  #group: number;
  /** Places promised to claims under way. */
  #promised = 0;
  #looking: Promise<void> | undefined;
  #again = false;
  #stopped = false;
  #failures = 0;
  #error: MessagingError | undefined;
  #lookedAt: number;
  /** Waits for its turn to write: that may take as long as somebody's transaction. */
  #waiting = false;
  #cancelTimer: Cancel = () => undefined;

  constructor(context: ClaimerContext, group: number) {
    this.#context = context;
    this.#group = group;
    this.#runtime = context.connection.context.runtime;
    this.#lookedAt = this.#runtime.monotonic();
    this.#backoff = jittered(this.#runtime, "claim", 100, 10_000);
  }

  get error(): MessagingError | undefined {
    return this.#error;
  }

  /** Since it has looked, where it should. */
  get silentMs(): number {
    return this.#waiting || !this.#context.isRunning() ? 0 : this.#runtime.monotonic() - this.#lookedAt;
  }

  /** Several wake-ups in one turn, and those while it looks, are one more look. */
  readonly wake = (): void => {
    if (this.#stopped || !this.#context.isRunning()) return;
    this.#again = true;
    // Whoever wakes it, what it hands over is no part of a transaction of theirs.
    this.#looking ??= outsideTransactions(() => this.#look());
  };

  /** Claims in a write of the caller's, who has made `limit` places free in it. */
  claimInto(sql: Sql, limit: number): Claim {
    const { order } = this.#context.spec;
    return claim(sql, this.#group, order, limit, this.leaseUntil());
  }

  leaseUntil(): number {
    const { connection, spec } = this.#context;
    return Math.ceil(connection.now() + spec.leaseMs + leaseMarginMs);
  }

  /** Resolves when no claim is under way any more, and none will be. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancelTimer();
    await this.#looking;
  }

  async #look(): Promise<void> {
    this.#cancelTimer();
    await new Promise<void>((resolve) => this.#runtime.defer(resolve));
    let waitMs = maxWaitMs;
    try {
      while (this.#again && !this.#stopped && this.#context.isRunning()) {
        this.#again = false;
        const seen = await this.#glance();
        if (await this.#claimSome(seen)) this.#again = true;
        else waitMs = this.#untilNext(seen);
      }
      this.#failures = 0;
      this.#error = undefined;
    } catch (cause) {
      this.#error = brokerError("claiming", this.#context.connection.path, cause);
      this.#failures += 1;
      waitMs = this.#backoff(this.#failures);
    }
    this.#again = false;
    this.#lookedAt = this.#runtime.monotonic();
    this.#looking = undefined;
    if (!this.#stopped) this.#cancelTimer = this.#runtime.setTimer(waitMs, this.wake, { unref: true });
  }

  /** Also finds out when somebody has removed the group, and makes it again. */
  async #glance(): Promise<Glance> {
    const { connection, spec } = this.#context;
    const look = (): Promise<Glance> => connection.file.read((sql) => glance(sql, this.#group, spec.order));
    const seen = await look();
    if (seen.exists) return seen;
    this.#group = await connection.group(spec);
    return look();
  }

  /** Whether there may be more to do at once. */
  async #claimSome({ ready, nextDueAt, nextExpiryAt }: Glance): Promise<boolean> {
    const { connection, free, taken } = this.#context;
    const { file } = connection;
    const now = connection.now();
    const due = nextDueAt !== undefined && nextDueAt <= now;
    const expired = nextExpiryAt !== undefined && nextExpiryAt <= now && file.leasesAreFair();
    const limit = Math.min(Math.max(0, free() - this.#promised), claimLimit);
    if (!expired && !due && (!ready || limit === 0)) return false;
    this.#promised += limit;
    this.#waiting = true;
    try {
      let reclaimed = false;
      const claimed = await connection.write(
        (sql) => {
          // Asked again: waiting for this very write may have shown that nobody could write.
          reclaimed = expired && file.leasesAreFair();
          if (reclaimed || due) ripen(sql, this.#group, now, reclaimed);
          return this.claimInto(sql, limit);
        },
        { patient: true },
      );
      taken(claimed);
      return reclaimed || due || claimed.claimed.length === limit;
    } finally {
      this.#promised -= limit;
      this.#waiting = false;
    }
  }

  #untilNext({ nextDueAt, nextExpiryAt }: Glance): number {
    const now = this.#context.connection.now();
    const untilDue = Math.max((nextDueAt ?? Infinity) - now, 1);
    const untilExpiry = (nextExpiryAt ?? Infinity) - now;
    return Math.min(untilDue, untilExpiry > 0 ? untilExpiry : graceWaitMs, maxWaitMs);
  }
}
