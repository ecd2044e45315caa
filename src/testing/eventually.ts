import { nodeRuntime } from "../clock.ts";

/**
 * Calls `check` until it neither throws nor rejects, and resolves with its result; after `timeoutMs` rejects with its last
 * error. For what a broker does in its own time: never assert how long it took.
 */
export async function eventually<T>(check: () => T | Promise<T>, timeoutMs = 20_000): Promise<T> {
  const deadline = nodeRuntime.monotonic() + timeoutMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (nodeRuntime.monotonic() > deadline) throw error;
      await nodeRuntime.sleep(10);
    }
  }
}
