/** How a relay waits: for rows, which a wake-up ends, or after a failure, when new rows are no reason to try again sooner. */
import type { Runtime } from "../clock.ts";

export interface Waiting {
  /** Woken since the last `look`. */
  readonly woken: boolean;
  /** What was woken for until now is about to be looked for. */
  look(): void;
  wake(): void;
  /** Until there may be rows. */
  sleep(ms: number): Promise<void>;
  /** After a failure. */
  pause(ms: number): Promise<void>;
}

/** Nothing waits once `closing` has aborted. */
export function createWaiting(runtime: Runtime, closing: AbortSignal): Waiting {
  let woken = false;
  let current: { readonly end: () => void; readonly wakeable: boolean } | undefined;
  closing.addEventListener("abort", () => current?.end(), { once: true });

  const wait = async (ms: number, wakeable: boolean): Promise<void> => {
    if (closing.aborted) return;
    await new Promise<void>((resolve) => {
      const cancel = runtime.setTimer(ms, resolve);
      const end = (): void => {
        cancel();
        resolve();
      };
      current = { end, wakeable };
    });
    current = undefined;
  };

  return {
    get woken() {
      return woken;
    },
    look: () => void (woken = false),
    wake() {
      woken = true;
      if (current?.wakeable === true) current.end();
    },
    sleep: (ms) => wait(ms, true),
    pause: (ms) => wait(ms, false),
  };
}
