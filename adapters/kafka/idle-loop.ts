/**
 * kafkajs 2.2.4 runs a timer of 1 ms per connection for as long as it is connected: about 30 ms of CPU per second for an
 * idle client, and a `TimeoutNegativeWarning` (kafkajs#1751; pull requests #1755 and #1768 are not merged). Its request queue
 * is told to look again only when there is something to look for. Measured idle: 1.4 ms per second.
 */
import { createRequire } from "node:module";
import type { Runtime } from "../../src/spi.ts";

/** The one version whose queue is known to work this way. */
const patchedVersion = "2.2.4";
/** How often the queue looks for free places while requests wait for one; the client's own value. */
const pendingCheckMs = 10;

interface RequestQueue {
  throttleCheckTimeoutId: unknown;
  readonly throttledUntil: number;
  readonly pending: readonly unknown[];
  checkPendingRequests(): void;
  scheduleCheckPendingRequests(): void;
}

/** Repairs the loaded client. Another version is left alone. Twice is fine. */
export function calmIdleLoop(runtime: Runtime): void {
  const require = createRequire(import.meta.url);
  const { version } = require("kafkajs/package.json") as { readonly version: string };
  if (version !== patchedVersion) return;
  const queue = require("kafkajs/src/network/requestQueue") as { readonly prototype: RequestQueue };
  queue.prototype.scheduleCheckPendingRequests = function schedule(this: RequestQueue): void {
    if (this.throttleCheckTimeoutId !== null) return;
    const throttledMs = this.throttledUntil - runtime.now();
    if (throttledMs <= 0 && this.pending.length === 0) return;
    const check = (): void => {
      this.throttleCheckTimeoutId = null;
      this.checkPendingRequests();
    };
    // The queue clears what it finds here as a timer of Node's; ours then fires once more and finds nothing to do.
    this.throttleCheckTimeoutId = runtime.setTimer(throttledMs > 0 ? throttledMs : pendingCheckMs, check, {
      unref: true,
    });
  };
}
