/** One subscription: its parts, and how it starts, pauses and ends. */
import { hostname } from "node:os";
import type {
  DeliverySink,
  HeaderPatch,
  RawDelivery,
  SettleResult,
  SubscribeSpec,
  Subscription,
  SubscriptionHealth,
} from "../../src/spi.ts";
import { createCompetingReader } from "./competing.ts";
import type { RedisConnection } from "./connection.ts";
import { declareGroup } from "./groups.ts";
import { Holdings } from "./holdings.ts";
import { groupKeys } from "./keys.ts";
import type { Link } from "./link.ts";
import { createOwnedReader } from "./owned.ts";
import { ReadLoop } from "./read-loop.ts";
import type { Reader } from "./reader.ts";
import { createReports } from "./reports.ts";

/** A read under way ends by itself within half of this. */
const stopWithinMs = 1_000;
/** Leaving may not take longer, whatever the server does. */
const leaveWithinMs = 2_000;

export class RedisSubscription implements Subscription {
  readonly #connection: RedisConnection;
  readonly #spec: SubscribeSpec;
  readonly #link: Link;
  readonly #reader: Reader;
  readonly #holdings: Holdings;
  readonly #loop: ReadLoop;
  readonly #stopping = new AbortController();
  readonly #onClosed: (subscription: RedisSubscription) => void;
  #state: "running" | "paused" | "stopped" = "running";
  #running: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;
  #readerId: number | undefined;

  constructor(
    connection: RedisConnection,
    spec: SubscribeSpec,
    sink: DeliverySink,
    onClosed: (subscription: RedisSubscription) => void,
  ) {
    const { topic, group, leaseMs } = spec;
    const { runtime } = connection;
    const stopping = this.#stopping.signal;
    const reports = createReports(connection, spec);
    this.#connection = connection;
    this.#spec = spec;
    this.#onClosed = onClosed;
    this.#link = connection.openLink(`${topic.name}--${group}`, async (redis) => {
      // Not every user may ask; then stopping waits for the blocking read to end.
      this.#readerId = await redis.client("ID").catch(() => undefined);
    });
    this.#holdings = new Holdings({
      connection,
      spec,
      sink,
      reports,
      onFreed: () => this.#loop.settled(),
      onGivenBack: (claims, isSure) => {
        if (!isSure) this.#reader.interrupted();
        this.#reader.givenBack(claims);
      },
    });
    const createReader = spec.order === "key" ? createOwnedReader : createCompetingReader;
    this.#reader = createReader({
      connection,
      link: this.#link,
      keys: groupKeys(connection.prefix, spec),
      group,
      // Never used again: what is pending for it is this subscription's and nobody else's.
      consumer: `${hostname()}-${process.pid}-${runtime.newId().slice(-12)}`,
      partitions: topic.partitions,
      leaseMs,
      runtime,
      signal: stopping,
      holds: (entry) => this.#holdings.has(entry),
      heldBy: (claim) => this.#holdings.heldBy(claim),
      onDeleted: reports.deleted,
      onTrouble: reports.delayed,
      onDisowned: (claims) => this.#holdings.disown(claims),
      onPartitions: reports.otherPartitions,
    });
    this.#loop = new ReadLoop({
      connection,
      spec,
      link: this.#link,
      reader: this.#reader,
      holdings: this.#holdings,
      reports,
      stopping,
      isRunning: () => this.#state === "running",
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
    this.#running = this.#loop.run();
  }

  ack(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return this.#holdings.ack(deliveries);
  }

  defer(delivery: RawDelivery, delayMs: number, patch: HeaderPatch): Promise<SettleResult> {
    return this.#holdings.defer(delivery, delayMs, patch);
  }

  deadLetter(delivery: RawDelivery, patch: HeaderPatch): Promise<SettleResult> {
    return this.#holdings.deadLetter(delivery, patch);
  }

  release(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return this.#holdings.release(deliveries);
  }

  extend(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return this.#holdings.extend(deliveries);
  }

  pause(): void {
    if (this.#state === "running") this.#state = "paused";
  }

  resume(): void {
    if (this.#state === "paused") this.#state = "running";
    this.#loop.wake();
  }

  async stop(): Promise<void> {
    if (this.#state !== "stopped") {
      this.#state = "stopped";
      this.#stopping.abort(new Error("the subscription stops"));
      this.#loop.wake();
      this.#unblock();
    }
    if (!(await this.#within(stopWithinMs, this.#running))) this.#link.close();
    await this.#running;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  health(): SubscriptionHealth {
    const error = this.#loop.error ?? this.#link.error ?? this.#connection.commands.error;
    const up = this.#link.up && this.#connection.commands.up;
    const consuming = this.#state !== "stopped" && up && error === undefined;
    return { consuming, error, silentMs: this.#loop.silentMs };
  }

  /** Ends the blocking read under way. Where that is not allowed, it ends by itself within half a second. */
  #unblock(): void {
    const id = this.#readerId;
    if (id === undefined || !this.#connection.commands.up) return;
    // Without this the read ends when its own time is over.
    this.#connection.commands
      .request("ending the blocking read", (redis) => redis.client("UNBLOCK", id))
      .catch(() => undefined);
  }

  async #close(): Promise<void> {
    await this.stop();
    await this.#within(leaveWithinMs, this.#holdings.settled());
    const leave = async (): Promise<void> => {
      await this.#holdings.giveAllBack();
      await this.#reader.leave();
    };
    // Without the server it ends at once, and leases do it instead.
    await this.#within(leaveWithinMs, leave());
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
