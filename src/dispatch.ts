/**
 * From delivery to outcome: decode, protect, run, and decide about failures. Nothing a handler does or throws gets past
 * here; what cannot be attempted now (store down) is tried again without counting.
 */
import type { Adapter } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { type HandlerContext, bindLogger } from "./context.ts";
import { decodePayload } from "./envelope.ts";
import { maxDurationMs } from "./duration.ts";
import { HandlerTimeoutError } from "./errors.ts";
import type { EventListener, Logger } from "./events.ts";
import { header, headerTime } from "./headers.ts";
import { textOf } from "./inspect.ts";
import type { Slot } from "./lanes.ts";
import { type Once, storeError } from "./once.ts";
import { type FailedAttempt, type Outcome, checkOutcome } from "./outcome.ts";
import type { Publisher } from "./publisher.ts";
import { jittered, retryLoop } from "./retry/loop.ts";
import { type RetryPolicy, decide, longestDelayMs } from "./retry/policy.ts";
import type { Topic } from "./topic.ts";
import { type Work, infoOf, waitWith } from "./work.ts";

export interface DispatchContext {
  readonly adapter: Adapter;
  readonly runtime: Runtime;
  readonly topic: Topic;
  readonly policy: RetryPolicy;
  /** With `"key"` a message is retried where it is: deferring it would let later ones of its key pass. */
  readonly order: "none" | "key";
  /** With `"block"` a message of a key that is out of attempts is tried on, and no other of its key before it. */
  readonly onExhausted: "deadLetter" | "block";
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

  const wait = (work: Work, slot: Slot, ms: number): Promise<void> =>
    slot.lendWhile(() => waitWith(work, runtime, ms, closing));

  /** How long a delayed message has left. No delay is longer than a year: what says so was not written by us. */
  const dueIn = (work: Work): number => {
    const dueAt = headerTime(work.raw.message.headers, header.notBefore) ?? 0;
    const dueInMs = Math.max(0, dueAt - runtime.now());
    return dueInMs > maxDurationMs ? 0 : dueInMs;
  };

  const isInPlace = (work: Work): boolean => context.order === "key" && work.message.key !== undefined;
  const blocks = (work: Work): boolean => context.onExhausted === "block" && isInPlace(work);

  /** That it seems to kill its process. One that waits behind another is not what runs. */
  const crashLoop = ({ raw, behind }: Work): Error | undefined =>
    raw.redeliveries >= context.crashLimit && !behind
      ? new Error(`handed over ${raw.redeliveries} times without an end`)
      : undefined;

  /** What to attempt: a payload of its own for each attempt, whatever the one before did to it; or why there is none. */
  const prepare = async (work: Work): Promise<{ readonly payload: unknown } | Outcome> => {
    const error = crashLoop(work);
    if (error !== undefined && !blocks(work)) return { kind: "deadLetter", reason: "crash-loop", error };
    try {
      return { payload: await decodePayload(topic, work.raw.message) };
    } catch (error) {
      return { kind: "deadLetter", reason: "invalid", error };
    }
  };

  /** One run of the handler. Never rejects. */
  const runHandler = async (
    work: Work,
    payload: unknown,
    tx: unknown,
    signal: AbortSignal,
  ): Promise<Outcome | FailedAttempt> => {
    const handlerContext: HandlerContext<unknown, unknown> = {
      ...context.publisherFor(work, tx),
      message: { ...work.message, payload },
      group: work.raw.group,
      attempt: work.attempt,
      signal,
      log: bindLogger(context.logger, infoOf(work)),
      tx,
    };
    try {
      signal.throwIfAborted();
      const outcome = checkOutcome(await abortable(signal, context.run(handlerContext)));
      return outcome.kind === "retry" ? { ...outcome, kind: "failed" } : outcome;
    } catch (error) {
      return { kind: "failed", error };
    }
  };

  /**
   * One attempt under protection and time limit. The store's failures are waited out here, uncounted. What cannot be
   * attempted is protected too: a message that was handled before does not become a dead letter as well.
   */
  const attemptOnce = (work: Work, slot: Slot): Promise<Outcome | FailedAttempt> =>
    retryLoop(
      (ms) => wait(work, slot, ms),
      async () => {
        if (work.lost) return { kind: "release" };
        const prepared = await prepare(work);
        const limit = timeLimit(runtime, context.timeoutMs, work.cancel.signal);
        try {
          return await once.attempt(work.inboxKey, limit.signal, (tx) => {
            if ("kind" in prepared) return Promise.resolve(prepared);
            limit.start();
            return runHandler(work, prepared.payload, tx, limit.signal);
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

  /** What becomes of a failed attempt. A policy of the user's own that throws must not decide by that. */
  const judge = (work: Work, failed: FailedAttempt): Outcome => {
    work.firstFailureAt ??= runtime.now();
    work.failures += 1;
    const ageMs = Math.max(0, runtime.now() - work.firstFailureAt);
    const failure = { ...failed, failures: work.failures, ageMs, blocks: blocks(work) };
    const random = runtime.random("jitter");
    try {
      return decide(failure, policy, random);
    } catch (error) {
      const message = `retry.backoff or retry.retryIf of group "${work.raw.group}" threw: ${textOf(error)}; trying again after ${fallbackDelayMs} ms`;
      emit({ type: "warning", code: "RETRY_POLICY", message });
      return decide(failure, { ...policy, retryIf: () => true, backoff: () => fallbackDelayMs }, random);
    }
  };

  const emitRetry = (work: Work, { delayMs, error, blocks = false }: Outcome & { kind: "retry" }): void => {
    work.blocks = blocks;
    emit({ type: blocks ? "blocked" : "retry", delayMs, error, ...infoOf(work) });
  };

  const attempt = async (work: Work, slot: Slot): Promise<Outcome> => {
    work.attempt = work.failures + work.redeliveries + 1;
    const attempted = await attemptOnce(work, slot);
    // A failure of what was lost decides nothing: its next delivery is tried.
    if (work.lost && attempted.kind === "failed") return { kind: "release" };
    if (work.cancel.signal.aborted && attempted.kind !== "ack") return { kind: "release" };
    const outcome = attempted.kind === "failed" ? judge(work, attempted) : attempted;
    if (outcome.kind === "retry") emitRetry(work, outcome);
    if (outcome.kind === "later") emit({ type: "busy", delayMs: outcome.delayMs, ...infoOf(work) });
    return outcome;
  };

  /** Short waits, and all waits that keep the order of a key, are spent here; the message stays ours meanwhile. */
  const attemptUntilDecided = async (work: Work, slot: Slot): Promise<Outcome> => {
    const inPlace = isInPlace(work);
    let last: Outcome | undefined;
    const run = async (): Promise<Outcome> => {
      last = await attempt(work, slot);
      if (last.kind !== "retry" && last.kind !== "later") return last;
      if (inPlace || last.delayMs < context.holdBelowMs) throw new Held(last.delayMs);
      return last;
    };
    try {
      return await retryLoop(
        (ms) => wait(work, slot, ms),
        run,
        (held) => (held instanceof Held ? held.delayMs : undefined),
      );
    } catch (error) {
      if (!closing.aborted || error !== closing.reason) throw error;
      // Cut off by closing: the broker waits instead, unless that would let later messages of the key pass.
      return last?.kind === "retry" && !inPlace ? last : { kind: "release" };
    }
  };

  /** One that is never given up may kill the process again: first the others get some time. `false`: closing. */
  const waitOutCrash = async (work: Work, slot: Slot): Promise<boolean> => {
    const error = blocks(work) ? crashLoop(work) : undefined;
    if (error === undefined) return true;
    const delayMs = Math.min(Math.max(minCrashWaitMs, longestDelayMs(policy)), maxCrashWaitMs);
    emitRetry(work, { kind: "retry", delayMs, error, blocks: true });
    return waited(wait(work, slot, delayMs));
  };

  return async (work, slot) => {
    const dueInMs = dueIn(work);
    if (dueInMs > 0 && dueInMs >= context.holdBelowMs) return { kind: "later", delayMs: dueInMs };
    if (dueInMs > 0 && !(await waited(wait(work, slot, dueInMs)))) return { kind: "release" };
    return (await waitOutCrash(work, slot)) ? attemptUntilDecided(work, slot) : { kind: "release" };
  };
}

/** How long a message that seems to kill its process, and blocks its lane, waits before it may do so again. */
const minCrashWaitMs = 1_000;
const maxCrashWaitMs = 600_000;

/** How long to wait when the user's own policy gives no answer. */
const fallbackDelayMs = 60_000;

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
