/** Many deadlines and one timer: for waits so many and so short that a timer each would cost more than all the rest. */
import type { Cancel, Runtime } from "./clock.ts";

export interface Deadlines<T> extends Iterable<T> {
  /** `onLate` is called with it at its deadline, unless it was deleted before. */
  add(item: T): void;
  /** Twice is fine. When nothing is left there is no timer. */
  delete(item: T): void;
}

/** `deadline` is monotonic milliseconds. */
export function createDeadlines<T extends { readonly deadline: number }>(
  runtime: Runtime,
  onLate: (item: T) => void,
): Deadlines<T> {
  const items = new Set<T>();
  /** When the timer is set for. */
  let next = Infinity;
  let cancelTimer: Cancel = () => undefined;

  const setTimer = (at: number): void => {
    cancelTimer();
    next = at;
    cancelTimer = runtime.setTimer(at - runtime.monotonic(), onTimer);
  };
  const onTimer = (): void => {
    next = Infinity;
    const now = runtime.monotonic();
    for (const item of items) {
      if (item.deadline > now) continue;
      items.delete(item);
      onLate(item);
    }
    let earliest = Infinity;
    for (const { deadline } of items) if (deadline < earliest) earliest = deadline;
    if (earliest < next) setTimer(earliest);
  };

  return {
    add(item) {
      items.add(item);
      if (item.deadline < next) setTimer(item.deadline);
    },
    delete(item) {
      if (!items.delete(item) || items.size > 0) return;
      cancelTimer();
      next = Infinity;
    },
    [Symbol.iterator]: () => items.values(),
  };
}
