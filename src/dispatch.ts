/**
 * From delivery to outcome: decode, protect, run, and decide about failures. Nothing a handler does or throws gets past
 * here; what cannot be attempted now (store down) is tried again without counting.
 */
import type { Adapter } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { type HandlerContext, bindLogger } from "./context.ts";
import { decodePayload } from "./envelope.ts";
import { HandlerTimeoutError } from "./errors.ts";
import type { EventListener, Logger } from "./events.ts";
import { header, headerTime } from "./headers.ts";
import type { Slot } from "./lanes.ts";
import { type Once, storeError } from "./once.ts";
import type { FailedAttempt, Outcome } from "./outcome.ts";
import type { Publisher } from "./publisher.ts";
import { jittered, retryLoop } from "./retry/loop.ts";
import { type RetryPolicy, decide } from "./retry/policy.ts";
import type { Topic } from "./topic.ts";
import { type Work, infoOf } from "./work.ts";

export interface DispatchContext {
  readonly adapter: Adapter;
  readonly runtime: Runtime;
  readonly topic: Topic;
  readonly policy: RetryPolicy;
  /** With `"key"` a message is retried where it is: deferring it would let later ones of its key pass. */
  readonly order: "none" | "key";
  /** Waits shorter than this are spent in process. */
  readonly holdBelowMs: number;
  readonly timeoutMs: number | undefined;
  /** Hand-overs without an end after which a message is taken to kill its process. */
  readonly crashLimit: number;
  readonly once: Once;
  readonly emit: EventListener;
  readonly logger: Logger | undefined;
  /** Middleware and handler, composed. */
  readonly run: (context: HandlerContext<unknown, unknown>) => Promise<Outcome>;
  /** What `ctx.publish` writes to: the broker, or the handler's transaction. */
  readonly publisherFor: (work: Work, tx: unknown) => Publisher;
  /** Aborted when the consumer begins to close: nobody starts or waits any more. */
  readonly closing: AbortSignal;
}

export function createDispatch(context: DispatchContext): (work: Work, slot: Slot) => Promise<Outcome> {
  const { runtime, topic, policy, once, emit, closing } = context;
  const storeBackoff = jittered(runtime, "store", 200, 30_000);

  const wait = (slot: Slot, ms: number): Promise<void> => slot.lendWhile(() => runtime.sleep(ms, closing));

  /** How long a delayed message has left. Two wall clocks are compared, so never longer than the adapter's longest delay. */
  const dueIn = (work: Work): number => {
    const dueAt = headerTime(work.raw.message.headers, header.notBefore);
    if (dueAt === undefined) return 0;
    return Math.min(Math.max(0, dueAt - runtime.now()), context.adapter.capabilities.maxDelayMs);
  };

  /** One run of the handler. Never rejects. */
  const runHandler = async (
    work: Work,
    payload: unknown,
    tx: unknown,
    signal: AbortSignal,
  ): Promise<Outcome | FailedAttempt> => {
    const message = { ...work.message, payload };
    const handlerContext: HandlerContext<unknown, unknown> = {
      ...context.publisherFor(work, tx),
      message,
      group: work.raw.group,
      attempt: work.attempt,
      signal,
      log: bindLogger(context.logger, infoOf(work)),
      tx,
    };
    try {
      const outcome = await abortable(signal, context.run(handlerContext));
      return outcome.kind === "retry" ? { ...outcome, kind: "failed" } : outcome;
    } catch (error) {
      return { kind: "failed", error };
    }
  };

  /** One attempt under protection and time limit. The store's failures are waited out here, uncounted. */
  const attemptOnce = (work: Work, payload: unknown, slot: Slot): Promise<Outcome | FailedAttempt> =>
    retryLoop(
      (ms) => wait(slot, ms),
      async () => {
        const limit = timeLimit(runtime, context.timeoutMs, work.cancel.signal);
        try {
          return await once.attempt(work.inboxKey, limit.signal, (tx) => {
            limit.start();
            return runHandler(work, payload, tx, limit.signal);
          });
        } finally {
          limit.clear();
        }
      },
      (error, n) => {
        const delayMs = storeBackoff(n);
        emit({ type: "storeFailed", error: storeError(error), delayMs, ...infoOf(work) });
        return delayMs;
      },
    );

  /** What becomes of a failed attempt. */
  const judge = (work: Work, failed: FailedAttempt): Outcome => {
    work.firstFailureAt ??= runtime.now();
    const ageMs = runtime.now() - work.firstFailureAt;
    const outcome = decide({ ...failed, attempt: work.attempt, ageMs }, policy, runtime.random("jitter"));
    if (outcome.kind === "retry")
      emit({ type: "retry", delayMs: outcome.delayMs, error: failed.error, ...infoOf(work) });
    return outcome;
  };

  const attempt = async (work: Work, payload: unknown, slot: Slot): Promise<Outcome> => {
    const attempted = await attemptOnce(work, payload, slot);
    if (work.cancel.signal.aborted && attempted.kind !== "ack") return { kind: "release" };
    const outcome = attempted.kind === "failed" ? judge(work, attempted) : attempted;
    if (outcome.kind === "later") emit({ type: "busy", delayMs: outcome.delayMs, ...infoOf(work) });
    return outcome;
  };

  /** Short waits, and all waits of ordered consumers, are spent here; the message stays ours meanwhile. */
  const attemptUntilDecided = async (work: Work, payload: unknown, slot: Slot): Promise<Outcome> => {
    let last: Outcome | undefined;
    const run = async (): Promise<Outcome> => {
      if (last?.kind === "retry") work.attempt += 1;
      last = await attempt(work, payload, slot);
      if (last.kind !== "retry" && last.kind !== "later") return last;
      if (context.order === "key" || last.delayMs < context.holdBelowMs) throw new Held(last.delayMs);
      return last;
    };
    try {
      return await retryLoop(
        (ms) => wait(slot, ms),
        run,
        (held) => (held instanceof Held ? held.delayMs : undefined),
      );
    } catch (error) {
      if (!closing.aborted) throw error;
      // Cut off by closing: the broker waits instead, unless that would let later messages of the key pass.
      return last?.kind === "retry" && context.order === "none" ? last : { kind: "release" };
    }
  };

  return async (work, slot) => {
    const dueInMs = dueIn(work);
    if (dueInMs > 0 && dueInMs >= context.holdBelowMs) return { kind: "later", delayMs: dueInMs };
    if (dueInMs > 0 && !(await waited(wait(slot, dueInMs)))) return { kind: "release" };
    if (work.raw.redeliveries >= context.crashLimit) {
      const error = new Error(`handed over ${work.raw.redeliveries} times without an end`);
      return { kind: "deadLetter", reason: "crash-loop", error };
    }
    let payload: unknown;
    try {
      payload = await decodePayload(topic, work.raw.message);
    } catch (error) {
      return { kind: "deadLetter", reason: "invalid", error };
    }
    return attemptUntilDecided(work, payload, slot);
  };
}

/** An attempt to be made again in this process after a wait. */
class Held extends Error {
  readonly delayMs: number;
  constructor(delayMs: number) {
    super("held");
    this.delayMs = delayMs;
  }
}

/** Whether a wait ran its full length, or was cut off by closing. */
function waited(wait: Promise<void>): Promise<boolean> {
  return wait.then(
    () => true,
    () => false,
  );
}

/** `work`, or the signal's reason as soon as it aborts; what `work` still does is ignored. */
function abortable<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** The signal of one attempt: aborts with the delivery, or with `HandlerTimeoutError` after the limit. */
function timeLimit(
  runtime: Runtime,
  timeoutMs: number | undefined,
  parent: AbortSignal,
): { readonly signal: AbortSignal; start(): void; clear(): void } {
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(parent.reason);
  if (parent.aborted) onAbort();
  parent.addEventListener("abort", onAbort, { once: true });
  let cancel = (): void => undefined;
  return {
    signal: controller.signal,
    start() {
      if (timeoutMs === undefined) return;
      cancel = runtime.setTimer(timeoutMs, () =>
        controller.abort(new HandlerTimeoutError(`handler did not finish within ${timeoutMs} ms`)),
      );
    },
    clear() {
      cancel();
      parent.removeEventListener("abort", onAbort);
    },
  };
}
