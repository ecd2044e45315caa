/** Topics whose destination refuses, set aside with growing waits while the relay serves the others. */
import type { Runtime } from "../clock.ts";
import { jittered } from "../retry/loop.ts";

export interface ParkedTopics {
  /** Topics to leave out of the next fetch. */
  parked(): readonly string[];
  /** Sets the topic aside; returns for how long, in milliseconds. */
  refused(topic: string): number;
  accepted(topic: string): void;
}

export function createParkedTopics(runtime: Runtime): ParkedTopics {
  const backoff = jittered(runtime, "relay", 200, 30_000);
  const topics = new Map<string, { until: number; refusals: number }>();
  return {
    parked() {
      const now = runtime.monotonic();
      return Array.from(topics).flatMap(([topic, { until }]) => (until > now ? [topic] : []));
    },
    refused(topic) {
      const known = topics.get(topic);
      const left = (known?.until ?? 0) - runtime.monotonic();
      // Many rows of one page are refused at once: that is one refusal.
      if (left > 0) return left;
      const refusals = (known?.refusals ?? 0) + 1;
      const delayMs = backoff(refusals);
      topics.set(topic, { until: runtime.monotonic() + delayMs, refusals });
      return delayMs;
    },
    accepted: (topic) => void topics.delete(topic),
  };
}
