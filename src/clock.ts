/**
 * The one source of time, timers, randomness and ids. Nothing else in the library may touch `Date`, timers or
 * `Math.random` (a lint rule enforces it), so that policies can be tested with a fake clock and the whole core
 * can run in a deterministic simulation.
 */
import { getRandomValues } from "node:crypto";
import { createIdGenerator } from "./ids.ts";

/** Cancels a timer; calling it twice, or after the timer fired, does nothing. */
export type Cancel = () => void;

export interface Runtime {
  /** Wall clock, milliseconds since the epoch. For timestamps only: it may jump. */
  now(): number;
  /** Milliseconds that never go back. For timeouts, backoff and leases. */
  monotonic(): number;
  /** Calls `fn` once after `ms`. Delays beyond Node's 2^31-1 ms limit are chained. */
  setTimer(ms: number, fn: () => void, options?: { readonly unref?: boolean }): Cancel;
  /** Resolves after `ms`; rejects with the signal's reason when it aborts first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** A number in [0, 1). `stream` names the purpose, so that a simulation can seed each one on its own. */
  random(stream: string): number;
  /** A new UUIDv7: unique, and increasing within one process even when the wall clock steps back. */
  newId(): string;
  /** Calls `fn` after what is under way in this turn of the event loop. */
  defer(fn: () => void): void;
}

/** Node fires timers beyond this at once; longer waits are chained. */
const maxTimerMs = 2 ** 31 - 1;

function setTimer(ms: number, fn: () => void, options: { readonly unref?: boolean } = {}): Cancel {
  const deadline = performance.now() + ms;
  let handle: NodeJS.Timeout;
  const arm = (): void => {
    const left = deadline - performance.now();
    handle = setTimeout(left > maxTimerMs ? arm : fn, Math.min(Math.max(left, 0), maxTimerMs));
    if (options.unref === true) handle.unref();
  };
  arm();
  return () => clearTimeout(handle);
}

/** `sleep` in terms of a runtime's own timers, for every runtime. */
export function sleepWith(timer: Runtime["setTimer"], ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) return reject(signal.reason as Error);
    const onAbort = (): void => {
      cancel();
      reject(signal?.reason as Error);
    };
    const cancel = timer(ms, () => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    });
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** The default runtime: Node's clocks, timers and cryptographic randomness. */
export const nodeRuntime: Runtime = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  setTimer,
  sleep: (ms, signal) => sleepWith(setTimer, ms, signal),
  random: () => Math.random(),
  newId: createIdGenerator(
    () => Date.now(),
    (bytes) => getRandomValues(bytes),
  ),
  defer: (fn) => void setImmediate(fn),
};
