/**
 * The low-water mark: rows at or below it are gone for good, so that a fetch need not walk over what vacuum has not yet
 * removed. It must stay below every row that is, or can still become, visible: a transaction may draw a low `seq` now and
 * commit it much later. It moves only on proof: every row drawn before a `remove` began has a transaction older than the
 * remove's `mark`; a later fetch whose snapshot has no such transaction left (`horizon > mark`) has seen them all.
 */
import type { OutboxPage } from "../store.ts";

export interface LowWater {
  /** Fetch above this. */
  readonly low: bigint;
  /** The highest row seen. To be noted before a `remove` begins: rows seen while it runs may be newer than its mark. */
  readonly highest: bigint;
  /** All rows up to here that will ever exist have been seen. */
  readonly proven: bigint;
  /** What the next page has to prove is not known: only a mark can tell. */
  readonly needsMark: boolean;
  /** A page was fetched above `low`. `hidden`: rows of parked topics were left out, so that it proves nothing. */
  saw(page: OutboxPage, hidden: boolean): void;
  /** Rows were removed; `mark` as the store gave it, `highest` as it was when the remove began. */
  removed(seqs: readonly bigint[], mark: bigint, highest: bigint): void;
  /** Rows are gone without a mark. */
  gone(seqs: readonly bigint[]): void;
  /** Starts over from the bottom: the net under all of the above. */
  sweep(): void;
}

export function createLowWater(): LowWater {
  /** Fetched and not yet gone: the mark stays below each of them. */
  const known = new Set<bigint>();
  let low = 0n;
  let highest = 0n;
  let proven = 0n;
  let candidate: { readonly seq: bigint; readonly mark: bigint } | undefined;

  const belowKnown = (bound: bigint): bigint => {
    let lowest = bound;
    for (const seq of known) if (seq - 1n < lowest) lowest = seq - 1n;
    return lowest;
  };

  return {
    get low() {
      return low;
    },
    get highest() {
      return highest;
    },
    get proven() {
      return proven;
    },
    get needsMark() {
      return candidate === undefined && proven < highest;
    },
    saw(page, hidden) {
      for (const { seq } of page.rows) {
        known.add(seq);
        if (seq > highest) highest = seq;
      }
      if (hidden || candidate === undefined || page.horizon <= candidate.mark) return;
      // Of a page that was cut off by its limit the rows are known now, and those beyond its end are above them.
      const below = belowKnown(candidate.seq);
      if (below > low) low = below;
      if (candidate.seq > proven) proven = candidate.seq;
      candidate = undefined;
    },
    removed(seqs, mark, highestThen) {
      for (const seq of seqs) known.delete(seq);
      candidate ??= { seq: highestThen, mark };
    },
    gone(seqs) {
      for (const seq of seqs) known.delete(seq);
    },
    sweep() {
      low = 0n;
      candidate = undefined;
    },
  };
}
