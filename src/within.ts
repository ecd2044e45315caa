import type { Cancel, Runtime } from "./clock.ts";

/** Whether `done` resolves within `ms`. */
export async function resolvesWithin(runtime: Runtime, ms: number, done: Promise<unknown>): Promise<boolean> {
  let cancel: Cancel = () => undefined;
  const late = new Promise<false>((resolve) => {
    cancel = runtime.setTimer(ms, () => resolve(false));
  });
  try {
    return await Promise.race([done.then(() => true), late]);
  } finally {
    cancel();
  }
}
