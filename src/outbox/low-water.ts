/**
 * The low-water mark: rows at or below it are gone for good, so that a fetch need not walk over what vacuum has not yet
 * removed. It must stay below every row that is, or can still become, visible: a transaction may draw a low `seq` now and
 * commit it much later. It moves only on proof: after a `remove`, every row drawn before has a transaction older than the
 * remove's `mark`; a later fetch whose snapshot has no such transaction left (`horizon > mark`) has seen them all.
 */
import type { OutboxPage } from "../store.ts";

export interface LowWater {
  /** Fetch above this. */
  readonly low: bigint;
  /** A page was fetched above `low`; `full` when it was cut off by its limit. */
  saw(page: OutboxPage, full: boolean): void;
  /** Rows were removed; `mark` as the store gave it. */
  removed(seqs: readonly bigint[], mark: bigint): void;
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
    saw(page, full) {
      for (const { seq } of page.rows) {
        known.add(seq);
        if (seq > highest) highest = seq;
      }
      if (candidate === undefined || page.horizon <= candidate.mark) return;
      const last = page.rows.at(-1)?.seq;
      // A full page says nothing about rows beyond its end.
      const bound = full && last !== undefined && last < candidate.seq ? last : candidate.seq;
      const proven = belowKnown(bound);
      if (proven > low) low = proven;
      candidate = undefined;
    },
    removed(seqs, mark) {
      for (const seq of seqs) known.delete(seq);
      candidate ??= { seq: highest, mark };
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
