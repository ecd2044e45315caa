/**
 * The waiting between attempts in this process, for producers, handlers and reconnects alike. p-retry runs the loop;
 * the wait itself goes through the runtime, so that a fake clock or a simulation drives it.
 */
import pRetry from "p-retry";
import type { Runtime } from "../clock.ts";

/** Decides after each failure: a number of milliseconds to wait, or `undefined` to give up. */
export type NextDelay = (error: unknown, attempt: number) => number | undefined;

/** p-retry gives up at once on a `TypeError`, and refuses what is no `Error`; users may throw either. */
class Attempt extends Error {
  readonly error: unknown;
  constructor(error: unknown) {
    super("attempt failed");
    this.error = error;
  }
}

/**
 * Calls `run(attempt)` until it resolves or `nextDelay` gives up; then rejects with the last error as it was thrown.
 * `sleep` does the waiting: when it rejects, because the wait was aborted, so does the loop, with the same reason.
 */
export async function retryLoop<T>(
  sleep: (ms: number) => Promise<void>,
  run: (attempt: number) => Promise<T>,
  nextDelay: NextDelay,
): Promise<T> {
  let delayMs: number | undefined;
  const tryOnce = async (attempt: number): Promise<T> => {
    try {
      return await run(attempt);
    } catch (error) {
      delayMs = nextDelay(error, attempt);
      throw new Attempt(error);
    }
  };
  const mayGoOn = async (): Promise<boolean> => {
    if (delayMs === undefined) return false;
    await sleep(delayMs);
    return true;
  };
  try {
    try {
      // What succeeds at once, as nearly everything does, needs no loop.
      return await tryOnce(1);
    } catch (error) {
      if (!(await mayGoOn())) throw error;
    }
    return await pRetry((attempt) => tryOnce(attempt + 1), {
      retries: Infinity,
      minTimeout: 0,
      shouldRetry: mayGoOn,
    });
  } catch (error) {
    throw error instanceof Attempt ? error.error : error;
  }
}

/** Full-jitter exponential delays for reconnects and failed settles. */
export function jittered(
  runtime: Runtime,
  stream: string,
  minMs: number,
  maxMs: number,
): (attempt: number) => number {
  return (attempt) => {
    const cap = Math.min(maxMs, minMs * 2 ** Math.min(attempt - 1, 30));
    return Math.round(minMs / 2 + runtime.random(stream) * (cap - minMs / 2));
  };
}
