/** One subscription: a group member, what it has read, what is handed over, and how that is settled. */
import {
  type DeliverySink,
  type HeaderPatch,
  type MessagingError,
  type RawDelivery,
  type SettleResult,
  type SubscribeSpec,
  type Subscription,
  type SubscriptionHealth,
  TransportError,
} from "../../src/spi.ts";
import { Commits } from "./commits.ts";
import type { KafkaConnection } from "./connection.ts";
import { Copies, type CopiesContext } from "./copies.ts";
import { HandOver } from "./hand-over.ts";
import { Intake } from "./intake.ts";
import { privateHeader, privateValue } from "./mapping.ts";
import { GroupMember } from "./member.ts";
import type { Partition, ReadRecord } from "./partition.ts";
import { topicsToRead } from "./topology.ts";

const defaultMinSessionMs = 6_000;
const defaultMaxSessionMs = 1_800_000;
/** How long running handlers may hold up a change of the group. */
const drainMs = 3_000;
const flushMs = 2_000;
/** What all partitions of a subscription may bring in one fetch, and what each may at least and at most. */
const intakeBytes = 16 * 1_048_576;
const minPartitionBytes = 65_536;
const maxPartitionBytes = 1_048_576;
const hopAgainMs = 1_000;

const done: SettleResult = { status: "done" };
const stale: SettleResult = { status: "stale" };

export class KafkaSubscription implements Subscription {
  readonly #context: CopiesContext;
  readonly #spec: SubscribeSpec;
  readonly #sink: DeliverySink;
  readonly #onClosed: (subscription: KafkaSubscription) => void;
  readonly #member: GroupMember;
  readonly #intake: Intake;
  readonly #handOver: HandOver;
  readonly #commits: Commits;
  readonly #copies: Copies;
  #bounds: ReadonlyMap<string, number> = new Map();
  #reading: readonly string[] = [];
  #joining = false;
  #closed: Promise<void> | undefined;

  constructor(
    context: CopiesContext,
    spec: SubscribeSpec,
    sink: DeliverySink,
    onClosed: (subscription: KafkaSubscription) => void,
  ) {
    this.#context = context;
    this.#spec = spec;
    this.#sink = sink;
    this.#onClosed = onClosed;
    const { connection, topics } = context;
    const { runtime, settings } = connection;
    const partitions = (): Iterable<Partition> => this.#intake.partitions();
    this.#copies = new Copies(context, spec);
    this.#member = new GroupMember(connection, {
      groupId: connection.names.group(spec.group),
      sessionMs: sessionMsOf(spec, connection),
      partitionBytes: () => this.#partitionBytes(),
      prepare: () => this.#prepare(),
      partitionsOf: (topic) => topics.known(topic)?.partitions ?? 0,
      findMissing: () => topics.missing(this.#reading),
      owned: () => this.#intake.owned(),
      onJoined: (assignment, continued) => {
        this.#joining = false;
        this.#intake.joined(assignment, continued);
        this.#handOver.changing(false);
        this.#commits.mark();
      },
      beforeJoin: () => this.#beforeJoin(),
      onBatch: (payload) => this.#intake.batch(payload),
      onLost: () => {
        this.#joining = false;
        this.#intake.lost();
      },
    });
    this.#commits = new Commits({
      runtime,
      partitions,
      maxMetadata: settings.maxMetadata,
      commit: (topicCommits) => this.#member.commit(topicCommits),
      warn: (code, message) => connection.warn(code, message),
    });
    this.#handOver = new HandOver({
      runtime,
      spec,
      sink,
      partitions,
      note: () => this.#commits.flush(),
      onTaken: () => this.#intake.relieve(),
    });
    this.#intake = new Intake({
      runtime,
      fetching: this.#member,
      boundOf: (topic) => this.#bounds.get(topic),
      onReady: () => this.#handOver.schedule(),
      onLost: (records) => this.#lose(records),
      onHop: (record) => void this.#hop(record),
      onRemoved: (partition, count) => this.#removed(partition, count),
    });
  }

  /** Resolves when it has joined its group. Rejects when it cannot. */
  start(): Promise<void> {
    return this.#member.start();
  }

  ack(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    const settled = this.#each(deliveries, (record) => record.partition.settle(record));
    const count = settled.filter(({ status }) => status === "done").length;
    if (count > 0) this.#settled(count);
    return Promise.resolve(settled);
  }

  async defer(delivery: RawDelivery, delayMs: number, patch: HeaderPatch): Promise<SettleResult> {
    const record = ownedBy(delivery);
    if (record === undefined) return stale;
    const { runtime } = this.#context.connection;
    // Clocks are read in whole milliseconds: one more, so that it never comes early.
    const dueAt = Math.ceil(runtime.now() + delayMs) + 1;
    return this.#move(record, delivery, this.#copies.wait(record, dueAt, delayMs, patch));
  }

  async deadLetter(delivery: RawDelivery, patch: HeaderPatch): Promise<SettleResult> {
    const record = ownedBy(delivery);
    if (record === undefined) return stale;
    return this.#move(record, delivery, this.#copies.bury(record, delivery, patch));
  }

  release(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    const released = this.#each(deliveries, (record) => record.partition.putBack(record));
    this.#handOver.ended(released.filter(({ status }) => status === "done").length);
    return Promise.resolve(released);
  }

  /** Membership keeps them; there is nothing to renew. */
  extend(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return Promise.resolve(this.#each(deliveries, () => undefined));
  }

  pause(): void {
    this.#handOver.pause();
  }

  resume(): void {
    this.#handOver.resume();
  }

  stop(): Promise<void> {
    this.#handOver.stop();
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  health(): SubscriptionHealth {
    const { consuming, error, silentMs } = this.#member.health();
    return { consuming: consuming && !this.#handOver.stopped, error: error ?? this.#commits.error, silentMs };
  }

  async #close(): Promise<void> {
    const { connection } = this.#context;
    await this.stop();
    await connection.withinMs(flushMs, this.#commits.flush(true));
    this.#commits.end();
    await this.#member.stop();
    this.#intake.end();
    this.#onClosed(this);
  }

  async #prepare(): Promise<readonly string[]> {
    const { connection, topics } = this.#context;
    const main = connection.names.topic(this.#spec.topic.name);
    // Not made anew: whoever deleted it may be about to make it, in another way.
    if ((await topics.ask(main)) === undefined) {
      throw new TransportError(
        "ERR_DESTINATION",
        `topic "${main}" does not exist. Declare it, or wait until it is back.`,
      );
    }
    const group = await topicsToRead(connection, topics, this.#spec, this.#spec.maxRetryDelayMs);
    this.#copies.to(group);
    this.#bounds = new Map(Array.from(group.retries, ([bound, topic]) => [topic, bound]));
    this.#reading = [group.main, ...group.retries.values()];
    return this.#reading;
  }

  #partitionBytes(): number {
    const { connection, topics } = this.#context;
    const known =
      topics.known(connection.names.topic(this.#spec.topic.name))?.partitions ?? this.#spec.topic.partitions;
    const share = Math.floor(intakeBytes / (known * (1 + this.#bounds.size)));
    return Math.max(minPartitionBytes, Math.min(maxPartitionBytes, share));
  }

  /**
   * Lets what runs finish for a moment, and commits what is settled: who gets a partition then begins where it really ended.
   * What still runs after that stays ours if its partition does.
   */
  async #beforeJoin(): Promise<void> {
    const { connection } = this.#context;
    // A join may take several tries.
    if (this.#joining) return;
    this.#joining = true;
    this.#handOver.changing(true);
    const patienceMs = Math.min(drainMs, sessionMsOf(this.#spec, connection) / 3);
    await connection.withinMs(patienceMs, this.#handOver.idle());
    await connection.withinMs(flushMs, this.#commits.flush(true));
  }

  #each(deliveries: readonly RawDelivery[], act: (record: ReadRecord) => void): readonly SettleResult[] {
    return deliveries.map((delivery) => {
      const record = ownedBy(delivery);
      if (record === undefined) return stale;
      act(record);
      return done;
    });
  }

  /** So many of those handed over are settled; a record that hops was not. */
  #settled(count: number): void {
    this.#commits.mark();
    this.#intake.relieve();
    if (count > 0) this.#handOver.ended(count);
  }

  #lose(records: readonly ReadRecord[]): void {
    const deliveries = records.map(({ delivery }) => delivery).filter((delivery) => delivery !== undefined);
    this.#handOver.ended(records.length);
    this.#sink.lost(deliveries);
  }

  /** Settles by a copy elsewhere: the copy is confirmed first. */
  async #move(
    record: ReadRecord,
    delivery: RawDelivery | undefined,
    copying: Promise<MessagingError | undefined>,
  ): Promise<SettleResult> {
    const error = await copying;
    if (error !== undefined) return { status: "failed", error };
    if (!record.partition.active || record.delivery !== delivery) return stale;
    record.partition.settle(record);
    this.#settled(delivery === undefined ? 0 : 1);
    return done;
  }

  /** It has waited as long as its topic is for: it waits on in a new copy, because the old one will not be kept for ever. */
  async #hop(record: ReadRecord): Promise<void> {
    const { connection } = this.#context;
    if (record.message === undefined || !record.partition.active) return;
    const dueAt = Number(privateValue(record.message, privateHeader.due));
    const leftMs = Math.max(0, dueAt - connection.runtime.now());
    const result = await this.#move(record, undefined, this.#copies.wait(record, dueAt, leftMs, {}));
    if (result.status !== "failed") return;
    connection.warn(
      "KAFKA_RETRY_HOP",
      `a delayed message waits longer than it should: ${result.error.message}`,
    );
    this.#intake.holdOn(record, hopAgainMs);
  }

  #removed({ topic, number }: Partition, count: number): void {
    const message = `the broker removed ${count} messages of "${topic}" partition ${number} before group "${this.#spec.group}" read them: raise the topic's retention`;
    this.#context.connection.context.emit({
      type: "lost",
      topic: this.#spec.topic.name,
      group: this.#spec.group,
      count,
      message,
    });
  }
}

/** The record a delivery stands for, while it is out with this very delivery. */
function ownedBy(delivery: RawDelivery): ReadRecord | undefined {
  const record = delivery.token as ReadRecord;
  return record.partition.active && record.delivery === delivery ? record : undefined;
}

/** A delivery outlives its process as long as the group waits for it. */
function sessionMsOf({ leaseMs }: SubscribeSpec, { settings }: KafkaConnection): number {
  const min = settings.minSessionMs ?? defaultMinSessionMs;
  const max = settings.maxSessionMs ?? defaultMaxSessionMs;
  return Math.round(Math.min(max, Math.max(min, leaseMs)));
}
