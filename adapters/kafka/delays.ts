/** Records in order of the time they are due: a binary heap, since thousands may wait at once. */

export interface Delayed<T> {
  /** Monotonic milliseconds. */
  readonly dueAt: number;
  readonly item: T;
}

export class DelayQueue<T> {
  readonly #heap: Delayed<T>[] = [];

  /** When the next one is due; `Infinity` when none waits. */
  get nextDueAt(): number {
    return this.#heap[0]?.dueAt ?? Infinity;
  }

  push(dueAt: number, item: T): void {
    const heap = this.#heap;
    let at = heap.push({ dueAt, item }) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((heap[parent] as Delayed<T>).dueAt <= dueAt) break;
      this.#swap(at, parent);
      at = parent;
    }
  }

  /** Takes out those due by `now`, the earliest first. */
  *takeDue(now: number): Generator<T> {
    while (this.nextDueAt <= now) yield this.#pop();
  }

  /** Takes out those that `isGone` says are of no interest any more. */
  prune(isGone: (item: T) => boolean): void {
    const kept = this.#heap.filter(({ item }) => !isGone(item));
    this.#heap.length = 0;
    for (const { dueAt, item } of kept) this.push(dueAt, item);
  }

  #pop(): T {
    const heap = this.#heap;
    const [first] = heap as [Delayed<T>];
    const last = heap.pop() as Delayed<T>;
    if (heap.length > 0) {
      heap[0] = last;
      this.#sink();
    }
    return first.item;
  }

  #sink(): void {
    const heap = this.#heap;
    let at = 0;
    for (;;) {
      const left = at * 2 + 1;
      const due = (i: number): number => heap[i]?.dueAt ?? Infinity;
      const least = due(left) <= due(left + 1) ? left : left + 1;
      if (due(least) >= due(at)) return;
      this.#swap(at, least);
      at = least;
    }
  }

  #swap(a: number, b: number): void {
    const heap = this.#heap;
    [heap[a], heap[b]] = [heap[b] as Delayed<T>, heap[a] as Delayed<T>];
  }
}
