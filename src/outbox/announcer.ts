/** Tells relays of other processes that there may be rows: at once, and then at most every ten milliseconds. */
import type { Runtime } from "../clock.ts";

const everyMs = 10;

/** A lost announcement costs nothing but time: relays look by themselves, too. */
export function createAnnouncer(runtime: Runtime, announce: () => Promise<void>): () => void {
  let busy = false;
  let again = false;
  const run = (): void => {
    again = false;
    const next = (): void => {
      if (again) run();
      else busy = false;
    };
    const wait = (): void => void runtime.setTimer(everyMs, next, { unref: true });
    announce().then(wait, wait);
  };
  return () => {
    if (busy) again = true;
    else {
      busy = true;
      run();
    }
  };
}
