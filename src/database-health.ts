/** Whether the database can be reached: known from whatever was last asked of it, and found out again after a failure. */
import type { Runtime } from "./clock.ts";
import { jittered, retryLoop } from "./retry/loop.ts";

export interface DatabaseHealth {
  readonly now: { readonly connected: boolean; readonly error?: Error | undefined };
  /** It has answered. */
  up(): void;
  /** It cannot be reached. Asks from now on until it answers, so that health recovers when nothing else is going on. */
  down(error: Error): void;
}

/** `ask` rejects until the database answers. `runtime`: once there is one. */
export function createDatabaseHealth(
  ask: () => Promise<unknown>,
  runtime: () => Runtime | undefined,
  closing: AbortSignal,
): DatabaseHealth {
  let now: DatabaseHealth["now"] = { connected: false };
  let asking = false;

  const mend = async (clock: Runtime): Promise<void> => {
    asking = true;
    const backoff = jittered(clock, "reconnect", 100, 5_000);
    try {
      await retryLoop(
        (ms) => clock.sleep(ms, closing),
        async () => (now.connected ? undefined : ask()),
        (_error, attempt) => backoff(attempt),
      );
    } catch {
      // Closed.
    } finally {
      asking = false;
    }
  };

  return {
    get now() {
      return closing.aborted ? { connected: false } : now;
    },
    up: () => void (now = { connected: true }),
    down(error) {
      now = { connected: false, error };
      const clock = runtime();
      if (clock !== undefined && !asking && !closing.aborted) void mend(clock);
    },
  };
}
