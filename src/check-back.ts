/** Asking what became of the work that a prepared message tells of: its sender may have died before it could say. */
import type { Runtime } from "./clock.ts";
import { decodePayload, describe } from "./envelope.ts";
import { ConfigurationError } from "./errors.ts";
import type { EventListener } from "./events.ts";
import { show } from "./inspect.ts";
import type { Message, WireMessage } from "./message.ts";
import { storeError } from "./once.ts";
import { checkFunction } from "./options.ts";
import { entryOfText } from "./outbox/entry-text.ts";
import { jittered } from "./retry/loop.ts";
import type { Store, UndecidedRow } from "./store.ts";
import { type Topic, checkTopic } from "./topic.ts";

/** What became of the work a prepared message tells of: done, not done, or not known yet. */
export type Decision = "commit" | "rollback" | "unknown";

/**
 * Finds out, from the sender's own data, what became of the work. It may be asked in another process than the one that
 * prepared, so that the message is all it can go by, and while the work still goes on: `"rollback"` only when it can no longer
 * be done. `signal` aborts after 30 seconds, and when the bus closes.
 */
export type Check<Payload = unknown> = (
  message: Message<Payload>,
  context: { readonly signal: AbortSignal },
) => Decision | Promise<Decision>;

const checkAgainMs = 30_000;
/** After so many the message is parked. */
export const maxChecks = 15;
const pollMs = 1_000;
const maxRunning = 100;

export interface CheckerContext {
  readonly store: Store;
  readonly runtime: Runtime;
  readonly emit: EventListener;
  /** Resolves when the store can be used. */
  readonly ready: () => Promise<void>;
}

export interface Checker {
  add(topic: Topic, check: Check): void;
  knows(topic: string): boolean;
  close(): Promise<void>;
}

/** Asks about what is due, one process at a time for each message: the store counts a check before it is made. */
export function createChecker(
  context: CheckerContext,
  decide: (topic: string, id: string, decision: "commit" | "rollback") => Promise<void>,
): Checker {
  const { store, runtime, emit } = context;
  const checks = new Map<string, { readonly topic: Topic; readonly check: Check }>();
  const running = new Set<Promise<void>>();
  const closing = new AbortController();
  let loop: Promise<void> | undefined;

  const ask = async (row: UndecidedRow, wire: WireMessage, id: string): Promise<void> => {
    const { topic, check } = checks.get(row.topic) as { topic: Topic; check: Check };
    if (row.checks > maxChecks) {
      const parked = await store.prepared.park(row.id, row.checks);
      if (parked) emit({ type: "checkParked", topic: row.topic, messageId: id, checks: maxChecks });
      return;
    }
    const payload = await decodePayload(topic, wire);
    const message = { ...describe(row.topic, "", wire, runtime.now()), payload };
    const decision = await inTime(context.runtime, closing.signal, (signal) => check(message, { signal }));
    if (decision === "commit" || decision === "rollback") return decide(row.topic, id, decision);
    if (decision === "unknown") return;
    throw new ConfigurationError(
      "ERR_CONFIG",
      `the check of topic "${row.topic}" must return "commit", "rollback" or "unknown", got ${show(decision)}`,
    );
  };

  const askAboutDue = async (): Promise<void> => {
    await context.ready();
    const room = maxRunning - running.size;
    if (room === 0) return;
    for (const row of await store.prepared.claim([...checks.keys()], checkAgainMs, room)) {
      const { message } = entryOfText(row.entry);
      const messageId = message.attributes["id"] ?? "";
      const asking = ask(row, message, messageId)
        .catch((error: unknown) => {
          if (!closing.signal.aborted) emit({ type: "checkFailed", topic: row.topic, messageId, error });
        })
        .finally(() => running.delete(asking));
      running.add(asking);
    }
  };

  const run = async (): Promise<void> => {
    const backoff = jittered(runtime, "check", pollMs, 30_000);
    let failures = 0;
    while (!closing.signal.aborted) {
      try {
        await askAboutDue();
        failures = 0;
      } catch (error) {
        failures += 1;
        if (!closing.signal.aborted) emit({ type: "checkFailed", error: storeError(error) });
      }
      await runtime.sleep(failures === 0 ? pollMs : backoff(failures), closing.signal).catch(() => undefined);
    }
  };

  return {
    add(topic, check) {
      checkTopic("checkBack", topic);
      checkFunction("checkBack", check);
      if (checks.has(topic.name))
        throw new ConfigurationError("ERR_CONFIG", `topic "${topic.name}" has a check already`);
      checks.set(topic.name, { topic, check });
      loop ??= run();
    },
    knows: (topic) => checks.has(topic),
    async close() {
      closing.abort();
      await loop;
      await Promise.allSettled(running);
    },
  };
}

/** What the check says; `"unknown"` when the next one is due first, or the bus closes. */
function inTime(
  runtime: Runtime,
  closing: AbortSignal,
  act: (signal: AbortSignal) => Decision | Promise<Decision>,
): Promise<Decision> {
  return new Promise((resolve, reject) => {
    const late = new AbortController();
    const end = (): void => {
      late.abort();
      resolve("unknown");
    };
    const cancel = runtime.setTimer(checkAgainMs, end);
    closing.addEventListener("abort", end, { once: true });
    (async () => act(late.signal))()
      .then(resolve, reject)
      .finally(() => {
        cancel();
        closing.removeEventListener("abort", end);
      });
  });
}
