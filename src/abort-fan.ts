/** One listener on an `AbortSignal` for many who care: adding one to a signal takes time linear in those it has. */
export interface AbortFan {
  readonly aborted: boolean;
  readonly reason: unknown;
  /** Calls `listener` once when the signal aborts. Returns what takes it back; without listeners nothing stays at the signal. */
  add(listener: () => void): () => void;
}

/** `undefined`: a signal that never aborts. */
export function createAbortFan(signal: AbortSignal | undefined): AbortFan {
  const listeners = new Set<() => void>();
  const onAbort = (): void => {
    for (const listener of listeners) listener();
    listeners.clear();
  };
  return {
    get aborted() {
      return signal?.aborted === true;
    },
    get reason() {
      return signal?.reason as unknown;
    },
    add(listener) {
      if (listeners.size === 0) signal?.addEventListener("abort", onAbort, { once: true });
      listeners.add(listener);
      return () => {
        if (listeners.delete(listener) && listeners.size === 0) signal?.removeEventListener("abort", onAbort);
      };
    },
  };
}
