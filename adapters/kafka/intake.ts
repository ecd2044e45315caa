/** Which partitions this member has, and what it has read of them: takes batches over, holds what is not due, and slows fetching. */
import type { EachBatchPayload, KafkaMessage } from "kafkajs";
import { type Cancel, type Runtime, jittered, retryLoop } from "../../src/spi.ts";
import type { CommittedOffset, Partitions } from "./cluster.ts";
import { DelayQueue } from "./delays.ts";
import { privateHeader, privateValue, sizeOf } from "./mapping.ts";
import { Partition, type ReadRecord } from "./partition.ts";
import { holdFor } from "./tiers.ts";

/** What it asks of the group member. */
interface Fetching {
  pause(topic: string, partition: number): void;
  resume(topic: string, partition: number): void;
  seek(topic: string, partition: number, offset: number): void;
  fetchCommitted(partitions: Partitions): Promise<ReadonlyMap<string, readonly CommittedOffset[]>>;
  fetchFirst(topic: string): Promise<ReadonlyMap<number, number>>;
}

export interface IntakeContext {
  readonly runtime: Runtime;
  readonly fetching: Fetching;
  /** Longest wait of a retry topic; undefined for any other. */
  readonly boundOf: (topic: string) => number | undefined;
  /** There is something new to hand over. */
  readonly onReady: () => void;
  /** These were handed over and belong to somebody else now. */
  readonly onLost: (records: readonly ReadRecord[]) => void;
  /** It has waited as long as its topic is for, and has longer to wait. */
  readonly onHop: (record: ReadRecord) => void;
  /** So many messages were removed by the broker before anybody read them. */
  readonly onRemoved: (partition: Partition, count: number) => void;
}

/** A batch waits this long to be worked off before its partition is paused: resuming takes as long. */
const patienceMs = 250;
/** Records between the oldest unsettled and the latest one; more could not be noted in a commit, and memory is not endless. */
const maxSpan = 20_000;
/** Waiting records of all retry topics together; each partition may have a few in any case. */
const maxHeld = 20_000;
const maxHeldBytes = 32 * 1_048_576;
const minHeld = 200;

export class Intake {
  readonly #context: IntakeContext;
  readonly #delays = new DelayQueue<ReadRecord>();
  #partitions = new Map<string, Partition>();
  /** Batches that wait for theirs to be worked off. */
  readonly #waiting = new Set<{ readonly partition: Partition; readonly proceed: () => void }>();
  #held = 0;
  #heldBytes = 0;
  #joins = 0;
  #cancelTimer: Cancel = () => undefined;

  constructor(context: IntakeContext) {
    this.#context = context;
  }

  partitions(): Iterable<Partition> {
    return this.#partitions.values();
  }

  /** By topic, as the assigner wants them. */
  owned(): Partitions {
    const owned: Record<string, number[]> = {};
    for (const { topic, number } of this.#partitions.values()) (owned[topic] ??= []).push(number);
    return owned;
  }

  /** What it keeps goes on as it was, if nobody else can have had it in between; the rest begins where the group is. */
  joined(assignment: Partitions, continued: boolean): void {
    this.#joins += 1;
    const before = this.#partitions;
    const kept: Partition[] = [];
    const fresh: Partition[] = [];
    this.#partitions = new Map();
    for (const [topic, numbers] of Object.entries(assignment)) {
      for (const number of numbers) {
        const name = nameOf(topic, number);
        const known = continued ? before.get(name) : undefined;
        const old = known?.isLoaded === true ? known : undefined;
        const partition = old ?? new Partition(topic, number, this.#context.boundOf(topic));
        (old === undefined ? fresh : kept).push(partition);
        this.#partitions.set(name, partition);
      }
    }
    this.#drop([...before.values()].filter((partition) => !kept.includes(partition)));
    const { fetching } = this.#context;
    // The client would fetch again from what is committed.
    for (const { topic, number, next } of kept) if (next !== undefined) fetching.seek(topic, number, next);
    // It remembers pauses of partitions it had before.
    for (const { topic, number } of fresh) fetching.resume(topic, number);
    void this.#load(fresh, kept, this.#joins);
  }

  /** It has nothing any more. */
  lost(): void {
    this.#joins += 1;
    const before = [...this.#partitions.values()];
    this.#partitions = new Map();
    this.#drop(before);
  }

  /** Takes a batch over. Resolves soon; a batch that cannot be worked off meanwhile pauses its partition. */
  async batch({ batch }: EachBatchPayload): Promise<void> {
    let partition = this.#partitions.get(nameOf(batch.topic, batch.partition));
    if (partition === undefined) return;
    await partition.loaded;
    const first = Number(batch.messages[0]?.offset);
    if (!partition.active || Number.isNaN(first)) return;
    const { position, next } = partition;
    // Between the two it is fetched again, and what is known of it stays.
    if (position !== undefined && next !== undefined && first < next && first <= position)
      partition = this.#startOver(partition);
    if (next !== undefined && first > next && !(await this.#mayPassOver(partition, next, batch))) return;
    for (const message of batch.messages) this.#take(partition, message);
    partition.passTo(Number(batch.lastOffset()) + 1);
    partition.lowWater = Math.max(1, batch.messages.length >> 1);
    this.#context.onReady();
    this.#armTimer();
    await this.#calmDown(partition);
  }

  /** Fetches again what was paused and may go on. Called after each hand-over and settling. */
  relieve(): void {
    for (const waiting of this.#waiting) {
      if (this.#isFull(waiting.partition)) continue;
      this.#waiting.delete(waiting);
      waiting.proceed();
    }
    for (const partition of this.#partitions.values()) {
      if (!partition.paused || this.#isFull(partition)) continue;
      partition.paused = false;
      this.#context.fetching.resume(partition.topic, partition.number);
    }
  }

  /** A record whose hop failed waits a little more. */
  holdOn(record: ReadRecord, ms: number): void {
    if (!record.partition.active) return;
    this.#hold(record, ms, true);
    this.#armTimer();
  }

  end(): void {
    this.#cancelTimer();
    this.lost();
  }

  #take(partition: Partition, message: KafkaMessage): void {
    const record = partition.read(message, sizeOf(message));
    if (record === undefined) return;
    const due = partition.boundMs === undefined ? undefined : privateValue(message, privateHeader.due);
    const { runtime } = this.#context;
    const { waitMs, hop } =
      due === undefined || !/^\d{1,15}$/u.test(due)
        ? { waitMs: 0, hop: false }
        : holdFor(Number(due), Number(message.timestamp), runtime.now(), partition.boundMs as number);
    if (waitMs > 0) this.#hold(record, waitMs, hop);
    else partition.ready.push(record);
  }

  #hold(record: ReadRecord, ms: number, hop: boolean): void {
    this.#delays.push(this.#context.runtime.monotonic() + ms, record);
    record.hop = hop;
    record.partition.held += 1;
    this.#held += 1;
    this.#heldBytes += record.size;
  }

  #unhold(record: ReadRecord): void {
    record.partition.held -= 1;
    this.#held -= 1;
    this.#heldBytes -= record.size;
  }

  /** Hands on what is due, and wakes again for the next. */
  #armTimer(): void {
    this.#cancelTimer();
    const { runtime } = this.#context;
    const inMs = this.#delays.nextDueAt - runtime.monotonic();
    if (inMs === Infinity) return;
    this.#cancelTimer = runtime.setTimer(Math.max(0, inMs), () => this.#onDue(), { unref: true });
  }

  #onDue(): void {
    const { runtime, onHop, onReady } = this.#context;
    for (const record of this.#delays.takeDue(runtime.monotonic())) {
      this.#unhold(record);
      if (record.hop) onHop(record);
      else record.partition.ready.push(record);
    }
    onReady();
    this.#armTimer();
  }

  #isFull(partition: Partition): boolean {
    if (!partition.active) return false;
    const { ready, lowWater, span, held } = partition;
    const tooManyHeld = held >= minHeld && (this.#held > maxHeld || this.#heldBytes > maxHeldBytes);
    return ready.length > lowWater || span > maxSpan || tooManyHeld;
  }

  /** Waits for the batch to be worked off; if it is not soon, its partition is paused, so that others are fetched. */
  async #calmDown(partition: Partition): Promise<void> {
    if (!this.#isFull(partition)) return;
    if (partition.boundMs === undefined) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const waiting = { partition, proceed: resolve };
      this.#waiting.add(waiting);
      const cancel = this.#context.runtime.setTimer(patienceMs, resolve);
      await promise;
      cancel();
      this.#waiting.delete(waiting);
    }
    if (partition.paused || !this.#isFull(partition)) return;
    partition.paused = true;
    this.#context.fetching.pause(partition.topic, partition.number);
  }

  #drop(partitions: readonly Partition[]): void {
    if (partitions.length === 0) return;
    for (const partition of partitions) {
      partition.drop();
    }
    this.#delays.prune((record) => {
      if (record.partition.active) return false;
      this.#unhold(record);
      return true;
    });
    this.relieve();
    const lost = partitions.flatMap(({ out }) => [...out]);
    if (lost.length > 0) this.#context.onLost(lost);
  }

  /** Asks where the group is in them. Until then nothing of the fresh ones is taken over. */
  async #load(fresh: readonly Partition[], kept: readonly Partition[], join: number): Promise<void> {
    const { runtime, fetching } = this.#context;
    const wanted: Record<string, number[]> = {};
    for (const { topic, number } of [...fresh, ...kept]) (wanted[topic] ??= []).push(number);
    const backoff = jittered(runtime, "offsets", 50, 1_000);
    const committed = await retryLoop(
      (ms) => runtime.sleep(ms),
      () => fetching.fetchCommitted(wanted),
      // Superseded by another join, or by the end of the consumer; the member's own watch ends one that cannot ask.
      (_error, attempt) => (this.#joins === join ? backoff(attempt) : undefined),
    ).catch(() => undefined);
    if (this.#joins !== join || committed === undefined) return;
    const found = ({ topic, number }: Partition): CommittedOffset | undefined =>
      committed.get(topic)?.find(({ partition }) => partition === number);
    for (const partition of fresh)
      partition.load(Number(found(partition)?.offset ?? -1), found(partition)?.metadata);
    for (const partition of kept) {
      const offset = Number(found(partition)?.offset ?? -1);
      // Somebody had it in a generation that this member has not even seen.
      if (partition.position !== undefined && offset > partition.position) {
        this.#startOver(partition).load(offset, found(partition)?.metadata);
        fetching.seek(partition.topic, partition.number, offset);
      }
    }
  }

  /** Forgets what is known of a partition: its log, or its group, is not where it was. */
  #startOver(partition: Partition): Partition {
    const { topic, number, boundMs } = partition;
    const again = new Partition(topic, number, boundMs);
    again.paused = partition.paused;
    again.load(-1, undefined);
    this.#partitions.set(nameOf(topic, number), again);
    this.#drop([partition]);
    return again;
  }

  /**
   * Offsets are missing before a batch. From where we are the broker gave what is next: the rest is compacted. Otherwise the
   * client has moved on by itself: past what the broker has removed, past records that are never handed out, or, when a batch
   * of another generation came late, past what nobody has read. So it is told once to go back.
   */
  async #mayPassOver(partition: Partition, next: number, batch: EachBatchPayload["batch"]): Promise<boolean> {
    if (Number((batch as { readonly fetchedOffset?: string }).fetchedOffset) === next) return true;
    const { fetching, onRemoved } = this.#context;
    const { topic, number } = partition;
    // Not known now: the client is told to go back, as if nothing had been removed.
    const firsts = await fetching.fetchFirst(topic).catch(() => undefined);
    if (!partition.active) return false;
    const removed = Math.min(firsts?.get(number) ?? 0, Number(batch.messages[0]?.offset)) - next;
    if (removed > 0) {
      // The client has committed a start of its own over ours.
      partition.committed = undefined;
      onRemoved(partition, removed);
      return true;
    }
    if (partition.sought === next) return true;
    partition.sought = next;
    fetching.seek(topic, number, next);
    return false;
  }
}

function nameOf(topic: string, partition: number): string {
  return `${topic}/${partition}`;
}
