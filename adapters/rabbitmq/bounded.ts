import type { Runtime } from "../../src/spi.ts";

/** Resolves when `work` has settled, or after `ms`, whichever is first. For good-byes to a server that may be frozen. */
export function within(runtime: Runtime, ms: number, work: Promise<unknown>): Promise<void> {
  return new Promise((resolve) => {
    const cancelTimer = runtime.setTimer(ms, resolve);
    const end = (): void => {
      cancelTimer();
      resolve();
    };
    work.then(end, end);
  });
}
