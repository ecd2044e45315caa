/** One subscription: keeps what is handed over within its window, and settles it while it is its own. */
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
import { Claimer } from "./claimer.ts";
import { type Claim, nothingClaimed } from "./claims.ts";
import type { SqliteConnection } from "./connection.ts";
import { type Lease, defer, end, endAsDead, extend, release } from "./deliveries.ts";
import { brokerError } from "./errors.ts";
import type { Sql } from "./sql.ts";

export class SqliteSubscription implements Subscription {
  readonly #connection: SqliteConnection;
  readonly #spec: SubscribeSpec;
  readonly #sink: DeliverySink;
  readonly #topic: string;
  readonly #claimer: Claimer;
  readonly #held = new Map<RawDelivery, Lease>();
  readonly #stopListening: readonly Cancel[];
  /** Writes under way; `close` waits for them. */
  readonly #underWay = new Set<Promise<unknown>>();
  #state: "running" | "paused" | "stopped" = "running";

  constructor(connection: SqliteConnection, spec: SubscribeSpec, sink: DeliverySink, group: number) {
    this.#connection = connection;
    this.#spec = spec;
    this.#sink = sink;
    this.#topic = connection.nameOf(spec.topic);
    const isRunning = (): boolean => this.#state === "running";
    const free = (): number => spec.prefetch - this.#held.size;
    const taken = (claim: Claim): void => this.#take(claim);
    this.#claimer = new Claimer({ connection, spec, isRunning, free, taken }, group);
    const { file } = connection;
    this.#stopListening = [
      file.onChange(this.#topic, this.#claimer.wake),
      file.onClockJump(() => void this.extend([...this.#held.keys()])),
      file.onReopened(() => this.#startOver()),
    ];
    this.#claimer.wake();
  }

  /** Settles, and in the same write claims as many others as places become free. */
  async ack(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    let claimed = nothingClaimed;
    const results = await this.#settle("ack", deliveries, end, (sql, freed) => {
      claimed = this.#state === "running" ? this.#claimer.claimInto(sql, freed) : nothingClaimed;
    });
    if (results[0]?.status !== "failed") this.#take(claimed);
    return results;
  }

  async defer(delivery: RawDelivery, delayMs: number, patch: HeaderPatch): Promise<SettleResult> {
    const dueAt = delayMs > 0 ? Math.ceil(this.#connection.now() + delayMs) : 0;
    const results = await this.#settle("defer", [delivery], (sql, lease) =>
      defer(sql, lease, dueAt, delivery.message, patch),
    );
    return results[0] as SettleResult;
  }

  async deadLetter(delivery: RawDelivery, patch: HeaderPatch): Promise<SettleResult> {
    const results = await this.#settle("dead-lettering", [delivery], (sql, lease) =>
      endAsDead(sql, lease, this.#topic, delivery.message, patch),
    );
    return results[0] as SettleResult;
  }

  async release(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    const results = await this.#settle("release", deliveries, release);
    this.#connection.poke(this.#topic);
    return results;
  }

  async extend(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    if (deliveries.length === 0) return [];
    const results = await this.#write("extend", deliveries, (sql, lease) =>
      extend(sql, lease, this.#claimer.leaseUntil()),
    );
    this.#lose(deliveries.filter((_, i) => results[i]?.status === "stale"));
    return results;
  }

  pause(): void {
    if (this.#state === "running") this.#state = "paused";
  }

  resume(): void {
    if (this.#state === "paused") this.#state = "running";
    this.#claimer.wake();
  }

  stop(): Promise<void> {
    this.#state = "stopped";
    return Promise.resolve();
  }

  async close(): Promise<void> {
    this.#state = "stopped";
    for (const stop of this.#stopListening) stop();
    await this.#claimer.stop();
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
    // What cannot be given back now comes again when its lease has run out.
    if (this.#held.size > 0) await this.release([...this.#held.keys()]);
  }

  health(): SubscriptionHealth {
    const { error, silentMs } = this.#claimer;
    return { consuming: this.#state !== "stopped" && error === undefined, error, silentMs };
  }

  #take({ claimed, missing }: Claim): void {
    if (missing > 0) this.#reportMissing(missing);
    if (claimed.length === 0) return;
    const again = new Set(claimed.map(({ message }) => message));
    this.#lose(Array.from(this.#held).flatMap(([raw, { message }]) => (again.has(message) ? [raw] : [])));
    const deliveries = claimed.map((one): RawDelivery => {
      const delivery: RawDelivery = {
        topic: this.#spec.topic.name,
        group: this.#spec.group,
        message: one.wire,
        position: String(one.message),
        redeliveries: one.redeliveries,
        token: one.epoch,
      };
      this.#held.set(delivery, one);
      return delivery;
    });
    // Stopped or paused meanwhile: nothing may be handed over any more; `close` gives back what is held.
    if (this.#state === "running") this.#sink.deliver(deliveries);
    else if (this.#state === "paused") void this.release(deliveries);
  }

  #lose(deliveries: readonly RawDelivery[]): void {
    const lost = deliveries.filter((delivery) => this.#held.delete(delivery));
    if (lost.length > 0) this.#sink.lost(lost);
  }

  #startOver(): void {
    this.#lose([...this.#held.keys()]);
    this.#claimer.wake();
  }

  #reportMissing(count: number): void {
    const { topic, group } = this.#spec;
    const message = `${count} messages of topic "${topic.name}" were deleted from ${this.#connection.path} by somebody else`;
    this.#connection.context.emit({ type: "lost", topic: topic.name, group, count, message });
  }

  async #settle(
    what: string,
    deliveries: readonly RawDelivery[],
    act: (sql: Sql, lease: Lease) => boolean,
    after?: (sql: Sql, done: number) => void,
  ): Promise<readonly SettleResult[]> {
    const results = await this.#write(what, deliveries, act, after);
    deliveries.forEach((delivery, i) => {
      if (results[i]?.status !== "failed") this.#held.delete(delivery);
    });
    this.#claimer.wake();
    return results;
  }

  async #write(
    what: string,
    deliveries: readonly RawDelivery[],
    act: (sql: Sql, lease: Lease) => boolean,
    after: (sql: Sql, done: number) => void = () => undefined,
  ): Promise<readonly SettleResult[]> {
    const leases = deliveries.map((delivery) => this.#held.get(delivery));
    if (leases.every((lease) => lease === undefined)) return deliveries.map(() => ({ status: "stale" }));
    const run = (sql: Sql): boolean[] => {
      const settled = leases.map((lease) => lease !== undefined && act(sql, lease));
      after(sql, settled.filter(Boolean).length);
      return settled;
    };
    const write = this.#connection.write(run, { patient: true });
    this.#underWay.add(write);
    try {
      return (await write).map((ours) => ({ status: ours ? "done" : "stale" }));
    } catch (cause) {
      const error = brokerError(what, this.#connection.path, cause);
      return deliveries.map(() => ({ status: "failed", error }));
    } finally {
      this.#underWay.delete(write);
    }
  }
}
