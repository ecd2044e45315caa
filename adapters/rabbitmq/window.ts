/** How much a subscription may have in its hands, shared by its streams: who waits longest for room gets it. */
export class Window {
  #room: number;
  readonly #waiting = new Set<() => void>();

  constructor(size: number) {
    this.#room = size;
  }

  /** Takes room for up to `wanted`. If that is not all, `retry` is called when there is more. */
  take(wanted: number, retry: () => void): number {
    const taken = Math.min(wanted, this.#room);
    this.#room -= taken;
    if (taken < wanted) this.#waiting.add(retry);
    return taken;
  }

  give(count: number): void {
    this.#room += count;
    for (const retry of this.#waiting) {
      if (this.#room === 0) return;
      this.#waiting.delete(retry);
      retry();
    }
  }
}
