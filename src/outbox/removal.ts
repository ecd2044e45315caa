/** Deletes what was confirmed, one statement at a time: what is confirmed meanwhile goes with the next. */
import type { OutboxStore } from "../store.ts";
import type { LowWater } from "./low-water.ts";

export interface RemovalContext {
  readonly outbox: OutboxStore;
  readonly epoch: bigint;
  readonly lowWater: LowWater;
  /** These are deleted. */
  onRemoved(seqs: readonly bigint[]): void;
  /** Another relay has taken over, or the store has failed; nothing more is deleted. */
  onEnded(error: unknown): void;
}

export interface Removal {
  add(seq: bigint): void;
  /** Asks for a mark without deleting anything. */
  mark(): Promise<void>;
  /** Resolves when all that was added is deleted, or can no longer be. */
  idle(): Promise<void>;
}

export function createRemoval(context: RemovalContext): Removal {
  const { outbox, epoch, lowWater } = context;
  let confirmed: bigint[] = [];
  let scheduled = false;
  let ended = false;
  let last: Promise<void> = Promise.resolve();

  const remove = async (): Promise<void> => {
    const seqs = confirmed;
    confirmed = [];
    scheduled = false;
    if (ended) return;
    const { highest } = lowWater;
    try {
      const { fenced, mark } = await outbox.remove(seqs, epoch);
      if (fenced) {
        ended = true;
        return context.onEnded(undefined);
      }
      lowWater.removed(seqs, mark, highest);
      if (seqs.length > 0) context.onRemoved(seqs);
    } catch (error) {
      ended = true;
      context.onEnded(error);
    }
  };

  return {
    add(seq) {
      confirmed.push(seq);
      if (scheduled) return;
      scheduled = true;
      // Confirmations come in batches, in one go: this one is all there by the time of the first `then`.
      last = last.then(remove);
    },
    mark: () => (last = last.then(remove)),
    async idle() {
      for (let seen; seen !== last;) {
        seen = last;
        await seen;
      }
    },
  };
}
