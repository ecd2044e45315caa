import assert from "node:assert/strict";
import * as fc from "fast-check";
import { describe, it } from "vitest";
import { createLowWater } from "../../../src/outbox/low-water.ts";
import type { OutboxPage, OutboxRow } from "../../../src/store.ts";

const page = (seqs: readonly number[], horizon: number): OutboxPage => ({
  rows: seqs.map((seq) => ({ seq: BigInt(seq) }) as OutboxRow),
  horizon: BigInt(horizon),
});
const complete = false;
const hidden = true;

describe("the low-water mark", () => {
  it("starts below every row", () => {
    assert.equal(createLowWater().low, 0n);
  });

  it("moves over removed rows once a later snapshot can have no older transaction", () => {
    const mark = createLowWater();
    mark.saw(page([1, 2, 3], 10), complete);
    mark.removed([1n, 2n, 3n], 11n, mark.highest);
    assert.equal(mark.low, 0n, "moved without proof");

    mark.saw(page([], 11), complete);
    assert.equal(mark.low, 0n, "the transaction of the remove itself may still be open");

    mark.saw(page([], 12), complete);
    assert.equal(mark.low, 3n);
  });

  it("stays below a row that was seen and is still there", () => {
    const mark = createLowWater();
    mark.saw(page([1, 2, 3], 10), complete);
    mark.removed([1n, 3n], 11n, mark.highest);

    mark.saw(page([2], 20), complete);

    assert.equal(mark.low, 1n);
  });

  it("moves no further than the end of a page that was cut off", () => {
    const mark = createLowWater();
    mark.saw(page([1, 2, 9], 10), complete);
    mark.removed([1n, 2n, 9n], 11n, mark.highest);

    mark.saw(page([4, 5], 20), complete);

    assert.equal(mark.low, 3n);
  });

  it("takes a page that hides the rows of parked topics for no proof, and the next complete one for it", () => {
    const mark = createLowWater();
    mark.saw(page([6, 7], 10), complete);
    mark.removed([6n, 7n], 11n, mark.highest);

    mark.saw(page([], 20), hidden);
    assert.equal(mark.low, 0n, "row 5 of the parked topic would be skipped");

    mark.saw(page([5], 21), complete);
    assert.equal(mark.low, 4n);
  });

  it("lets go of a row that was put aside", () => {
    const mark = createLowWater();
    mark.saw(page([1, 2], 10), complete);
    mark.gone([1n]);
    mark.removed([2n], 11n, mark.highest);
    mark.saw(page([], 12), complete);

    assert.equal(mark.low, 2n);
  });

  it("never moves down but by a sweep, which forgets the proof under way as well", () => {
    const mark = createLowWater();
    mark.saw(page([1, 2], 10), complete);
    mark.removed([1n, 2n], 11n, mark.highest);
    mark.saw(page([], 12), complete);
    mark.saw(page([5], 13), complete);
    mark.removed([5n], 14n, mark.highest);
    assert.equal(mark.low, 2n);

    mark.sweep();
    mark.saw(page([], 99), complete);

    assert.equal(mark.low, 0n);
  });
});

/**
 * PostgreSQL as far as it matters here: transactions get their id, then draw sequence numbers, and become visible when they
 * commit, in any order; a snapshot's horizon is the oldest transaction still open.
 */
class Database {
  readonly rows = new Map<number, { readonly transaction: number; readonly topic: number }>();
  readonly #open = new Set<number>();
  #nextTransaction = 1;
  #nextSeq = 1;

  begin(): number {
    const transaction = this.#nextTransaction++;
    this.#open.add(transaction);
    return transaction;
  }

  insert(transaction: number, topic: number): void {
    this.rows.set(this.#nextSeq++, { transaction, topic });
  }

  end(transaction: number, commit: boolean): void {
    this.#open.delete(transaction);
    if (commit) return;
    for (const [seq, row] of this.rows) if (row.transaction === transaction) this.rows.delete(seq);
  }

  get openTransactions(): number[] {
    return [...this.#open];
  }

  fetch(above: bigint, parked: number | undefined, limit: number): OutboxPage {
    const visible = Array.from(this.rows)
      .filter(
        ([seq, { transaction, topic }]) => !this.#open.has(transaction) && topic !== parked && seq > above,
      )
      .map(([seq]) => seq)
      .toSorted((a, b) => a - b);
    return page(visible.slice(0, limit), Math.min(this.#nextTransaction, ...this.#open));
  }

  /** Deletes, and answers with the transaction that did. */
  remove(seqs: readonly bigint[]): bigint {
    for (const seq of seqs) this.rows.delete(Number(seq));
    return BigInt(this.#nextTransaction++);
  }
}

describe("the low-water mark, over a database with many writers", () => {
  const step = fc.oneof(
    { weight: 2, arbitrary: fc.constant({ do: "begin" } as const) },
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constant("insert"), which: fc.nat(20), topic: fc.nat(2) } as const),
    },
    {
      weight: 3,
      arbitrary: fc.record({ do: fc.constant("end"), which: fc.nat(20), commit: fc.boolean() } as const),
    },
    {
      weight: 5,
      arbitrary: fc.record({
        do: fc.constant("relay"),
        limit: fc.integer({ min: 1, max: 4 }),
        parked: fc.option(fc.nat(2), { nil: undefined }),
        /** Which rows of the page are confirmed, by position. */
        confirmed: fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }),
        /** While the remove runs others write, and another page is fetched. */
        overlapping: fc.boolean(),
        /** Writers that begin and commit between the fetch and the remove. */
        meanwhile: fc.nat(2),
      } as const),
    },
    { weight: 1, arbitrary: fc.constant({ do: "commitAll" } as const) },
    { weight: 1, arbitrary: fc.constant({ do: "sweep" } as const) },
  );

  it("never hides a row that is, or can still become, visible, and gets past those that are gone", () => {
    let furthest = 0n;
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 120, size: "max" }), (steps) => {
        const database = new Database();
        const mark = createLowWater();
        const pick = (which: number): number | undefined => {
          const open = database.openTransactions;
          return open[which % Math.max(1, open.length)];
        };
        for (const one of steps) {
          if (one.do === "begin") database.begin();
          if (one.do === "insert") database.insert(pick(one.which) ?? database.begin(), one.topic);
          if (one.do === "end") {
            const transaction = pick(one.which);
            if (transaction !== undefined) database.end(transaction, one.commit);
          }
          if (one.do === "commitAll") for (const open of database.openTransactions) database.end(open, true);
          if (one.do === "sweep") mark.sweep();
          if (one.do === "relay") {
            const found = database.fetch(mark.low, one.parked, one.limit);
            mark.saw(found, one.parked !== undefined);
            for (let i = 0; i < one.meanwhile; i++) {
              const transaction = database.begin();
              database.insert(transaction, i);
              if (i > 0) database.end(transaction, true);
            }
            const sent = found.rows.filter((_, i) => one.confirmed[i]).map(({ seq }) => seq);
            if (sent.length === 0) continue;
            const { highest } = mark;
            const newest = database.remove(sent);
            if (one.overlapping) {
              const transaction = database.begin();
              database.insert(transaction, 0);
              const other = database.begin();
              database.insert(other, 0);
              database.end(other, true);
              mark.saw(database.fetch(mark.low, undefined, one.limit), false);
            }
            mark.removed(sent, newest, highest);
          }
          for (const seq of database.rows.keys()) {
            assert.ok(seq > mark.low, `row ${seq} is hidden: the mark is at ${mark.low}`);
          }
          if (mark.low > furthest) furthest = mark.low;
        }
      }),
      { numRuns: 1_000 },
    );
    assert.ok(furthest > 10n, `the mark never got anywhere: ${furthest}`);
  });
});
