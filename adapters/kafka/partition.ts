/** What this process knows of one partition while it owns it: what was read, what is handed over, what is settled. */
import type { KafkaMessage } from "kafkajs";
import type { RawDelivery } from "../../src/spi.ts";
import { type CommitNotes, type Suspect, decodeNotes, encodeNotes } from "./commit-metadata.ts";
import { OffsetTracker, type Tracked } from "./offsets.ts";

/** A record that was read and is not settled, or is settled above one that is not. */
export interface ReadRecord extends Tracked {
  readonly partition: Partition;
  /** Gone once it is settled: only its offset is still needed. */
  message: KafkaMessage | undefined;
  readonly size: number;
  /** When its wait is over it goes on waiting elsewhere. */
  hop?: boolean;
  /** The hand-over it is out with. Another one of the same record is another object: settling by the old one is stale. */
  delivery: RawDelivery | undefined;
}

/** What was last committed. */
interface Committed {
  readonly position: number;
  readonly metadata: string;
}

/** Sessions that must have ended badly with the same record before its neighbours are kept apart from it. */
const narrowAfter = 3;
/** How many records are then handed over one at a time. */
const narrowSpan = 1_000;

export class Partition {
  readonly topic: string;
  readonly number: number;
  /** Longest wait in this retry topic; undefined for the topic itself. */
  readonly boundMs: number | undefined;
  /** Resolves when it is known where the group is in it, or when it belongs to somebody else; rejects never. */
  readonly loaded: Promise<void>;
  /** Ready to be handed over. */
  readonly ready: ReadRecord[] = [];
  /** Handed over and not settled. */
  readonly out: Set<ReadRecord> = new Set();
  /** Waiting for their time. */
  held = 0;
  /** `false`: it belongs to somebody else now. */
  active = true;
  /** The client fetches nothing of it. */
  paused = false;
  /** Fetch again when so few are ready. */
  lowWater = 0;
  committed: Committed | undefined;
  /** The client was told once to fetch from here. */
  sought: number | undefined;
  readonly #setLoaded: () => void;
  #isLoaded = false;
  #tracker = new OffsetTracker();
  #settledBefore: ReadonlySet<number> = new Set();
  /** From earlier sessions: which record was first under way when they ended. */
  #before: Suspect | undefined;
  #narrowUntil: number | undefined;
  /** Of this session. `noted`: it is committed that its record is under way, so it may be. */
  #suspect: (Suspect & { readonly record: ReadRecord; noted: boolean }) | undefined;
  #began = false;

  constructor(topic: string, number: number, boundMs: number | undefined) {
    this.topic = topic;
    this.number = number;
    this.boundMs = boundMs;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.loaded = promise;
    this.#setLoaded = resolve;
  }

  get isLoaded(): boolean {
    return this.#isLoaded;
  }

  get next(): number | undefined {
    return this.#tracker.next;
  }

  get position(): number | undefined {
    return this.#tracker.position;
  }

  get span(): number {
    return this.#tracker.span;
  }

  /** Takes over where the group was: a committed offset below 0 is none. */
  load(offset: number, metadata: string | null | undefined): void {
    if (offset >= 0) {
      const notes = decodeNotes(offset, metadata);
      this.#tracker = new OffsetTracker(offset);
      this.#settledBefore = notes.settled;
      this.#before = notes.suspect;
      this.#narrowUntil = notes.narrowUntil;
      this.committed = { position: offset, metadata: metadata ?? "" };
      if (notes.suspect !== undefined && notes.suspect.starts >= narrowAfter) {
        this.#narrowUntil = Math.max(this.#narrowUntil ?? 0, notes.suspect.offset + narrowSpan);
      }
    }
    this.#isLoaded = true;
    this.#setLoaded();
  }

  /** It belongs to somebody else now. */
  drop(): void {
    this.active = false;
    this.ready.length = 0;
    this.#setLoaded();
  }

  /** Notes a record as read. `undefined`: it was before, or was settled in an earlier session. */
  read(message: KafkaMessage, size: number): ReadRecord | undefined {
    const offset = Number(message.offset);
    const record: ReadRecord = {
      partition: this,
      offset,
      settled: false,
      message,
      size,
      delivery: undefined,
    };
    if (!this.#tracker.add(record)) return undefined;
    if (!this.#settledBefore.has(offset)) return record;
    this.settle(record);
    return undefined;
  }

  passTo(offset: number): void {
    this.#tracker.passTo(offset);
  }

  settle(record: ReadRecord): void {
    record.message = undefined;
    record.delivery = undefined;
    this.out.delete(record);
    this.#tracker.settle(record);
    if (this.#suspect?.record === record) this.#suspect = undefined;
  }

  /** Back among the ready ones, before those that were read later. */
  putBack(record: ReadRecord): void {
    record.delivery = undefined;
    this.out.delete(record);
    const at = this.ready.findIndex(({ offset }) => offset > record.offset);
    this.ready.splice(at === -1 ? this.ready.length : at, 0, record);
  }

  /**
   * What may be done with the first ready record. `note`: it must be committed first that it is under way (then call
   * `noted`), so that a process it kills leaves a trace.
   */
  gate(): "open" | "note" | "shut" {
    const [first] = this.ready;
    if (first === undefined) return "shut";
    const narrow = this.#narrowUntil !== undefined && first.offset <= this.#narrowUntil;
    if (narrow && this.out.size > 0) return "shut";
    if (this.#suspect !== undefined) return this.#suspect.noted ? "open" : "note";
    return this.#began && !narrow ? "open" : "note";
  }

  /** The first ready record is about to be handed over: from now on commits say so. */
  suspectFirst(): void {
    const [record] = this.ready;
    if (record === undefined || this.#suspect !== undefined) return;
    const starts = this.#before?.offset === record.offset ? this.#before.starts + 1 : 1;
    this.#suspect = { offset: record.offset, starts, record, noted: false };
    this.#began = true;
  }

  /** The commit is confirmed. */
  noted(): void {
    if (this.#suspect !== undefined) this.#suspect.noted = true;
  }

  /** Sessions that began with this record and did not end well. */
  redeliveriesOf(record: ReadRecord): number {
    return this.#suspect?.record === record ? this.#suspect.starts - 1 : 0;
  }

  /** What there is to commit; `undefined` when the broker has it. `farewell`: this session ends well. */
  pending(limit: number, farewell: boolean): Committed | undefined {
    const position = this.#tracker.position;
    if (!this.active || position === undefined) return undefined;
    const metadata = encodeNotes(position, this.#notes(farewell), limit);
    const { committed } = this;
    return committed?.position === position && committed.metadata === metadata
      ? undefined
      : { position, metadata };
  }

  #notes(farewell: boolean): CommitNotes {
    const starts = (this.#suspect?.starts ?? 0) - (farewell ? 1 : 0);
    const current = this.#suspect ?? this.#unseen();
    const suspect =
      current === undefined || (this.#suspect !== undefined && starts < 1)
        ? undefined
        : { offset: current.offset, starts: this.#suspect === undefined ? current.starts : starts };
    return { settled: this.#tracker.settledAbove(), suspect, narrowUntil: this.#narrowUntil };
  }

  /** A suspect of earlier sessions that this one has not come to yet is passed on. */
  #unseen(): Suspect | undefined {
    return this.#began ? undefined : this.#before;
  }
}
