/**
 * Turns single calls into batches: what is asked for in the same turn of the event loop, or while earlier batches
 * are under way, goes out as one. An idle call is not delayed beyond the end of its turn.
 */
import type { Runtime } from "./clock.ts";

interface Waiting<T, R> {
  readonly item: T;
  readonly resolve: (result: R) => void;
  readonly reject: (error: unknown) => void;
}

export interface CoalesceOptions<T, R> {
  readonly runtime: Runtime;
  readonly maxBatch: number;
  readonly maxInFlight: number;
  /** One result per item, in order. A rejection is every item's. */
  readonly send: (items: readonly T[]) => Promise<readonly R[]>;
}

export interface Coalescer<T, R> {
  push(item: T): Promise<R>;
  /** Items not yet handed to `send`. */
  readonly waiting: number;
  /** Resolves when nothing is waiting or under way. */
  idle(): Promise<void>;
}

export function createCoalescer<T, R>(options: CoalesceOptions<T, R>): Coalescer<T, R> {
  const { runtime, maxBatch, maxInFlight, send } = options;
  let queue: Waiting<T, R>[] = [];
  let inFlight = 0;
  let scheduled = false;
  let idlers: (() => void)[] = [];

  const schedule = (): void => {
    if (scheduled || queue.length === 0 || inFlight >= maxInFlight) return;
    scheduled = true;
    runtime.defer(() => {
      scheduled = false;
      while (queue.length > 0 && inFlight < maxInFlight) {
        const batch = queue.slice(0, maxBatch);
        queue = queue.length > maxBatch ? queue.slice(maxBatch) : [];
        void flush(batch);
      }
    });
  };

  const flush = async (batch: readonly Waiting<T, R>[]): Promise<void> => {
    inFlight += 1;
    try {
      const results = await send(batch.map((waiting) => waiting.item));
      if (results.length !== batch.length)
        throw new Error(`${batch.length} items were sent, ${results.length} results came back`);
      batch.forEach((waiting, i) => waiting.resolve(results[i] as R));
    } catch (error) {
      for (const waiting of batch) waiting.reject(error);
    } finally {
      inFlight -= 1;
      schedule();
      if (inFlight === 0 && queue.length === 0) {
        for (const wake of idlers) wake();
        idlers = [];
      }
    }
  };

  return {
    push: (item) =>
      new Promise((resolve, reject) => {
        queue.push({ item, resolve, reject });
        schedule();
      }),
    get waiting() {
      return queue.length;
    },
    idle: () =>
      inFlight === 0 && queue.length === 0
        ? Promise.resolve()
        : new Promise((resolve) => idlers.push(resolve)),
  };
}
