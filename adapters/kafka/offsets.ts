/**
 * What of one partition is settled. Kafka commits one number per partition, everything below it is done; handlers finish in
 * any order. So the number to commit is the lowest offset that is read and not settled, and what was settled above it
 * is kept beside. Pure: no clock, no broker.
 */

/** A record that was read; its place in the tracker. */
export interface Tracked {
  readonly offset: number;
  settled: boolean;
}

export class OffsetTracker {
  /** Read, in order of offset, from the first unsettled one on; what is before `#head` is done with. */
  #tracked: Tracked[] = [];
  #head = 0;
  /** Offset after the last one that was read, and the position while nothing was. */
  #next: number | undefined;

  /** `start`: the committed offset, where there is one. */
  constructor(start?: number) {
    this.#next = start;
  }

  /** The next offset to read; `undefined` before anything is known. */
  get next(): number | undefined {
    return this.#next;
  }

  /** What to commit: everything below it is settled. `undefined` before anything is known. */
  get position(): number | undefined {
    return this.#tracked[this.#head]?.offset ?? this.#next;
  }

  /** How many records are between the position and the end of what was read. */
  get span(): number {
    return this.#tracked.length - this.#head;
  }

  /** Notes a record as read. `false`, and nothing changes, when it was read before: a fetch may start too early. */
  add(record: Tracked): boolean {
    if (this.#next !== undefined && record.offset < this.#next) return false;
    this.#tracked.push(record);
    this.#next = record.offset + 1;
    this.#advance();
    return true;
  }

  /** There is nothing more to read below `offset`: control records and compacted ones are never handed out. */
  passTo(offset: number): void {
    if (this.#next === undefined || offset > this.#next) this.#next = offset;
  }

  settle(record: Tracked): void {
    record.settled = true;
    this.#advance();
  }

  /** Offsets that are settled although one below them is not, in order. */
  *settledAbove(): Generator<number> {
    for (let at = this.#head; at < this.#tracked.length; at += 1) {
      const record = this.#tracked[at] as Tracked;
      if (record.settled) yield record.offset;
    }
  }

  #advance(): void {
    while (this.#tracked[this.#head]?.settled === true) this.#head += 1;
    // Shifting an array is linear; cutting it off now and then is not worth noticing.
    if (this.#head > 1_024 && this.#head * 2 > this.#tracked.length) {
      this.#tracked = this.#tracked.slice(this.#head);
      this.#head = 0;
    }
  }
}
