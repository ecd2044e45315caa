/**
 * Outcome to adapter calls, in the safe order, once. A settle that fails is tried again with growing waits while the
 * delivery stays unsettled; only the broker taking it back, or closing, ends that.
 */
import type { OutgoingMessage, RawDelivery, SettleResult, Subscription, TopicSpec } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { createCoalescer } from "./coalesce.ts";
import { MessagingError, SettleError } from "./errors.ts";
import type { EventListener } from "./events.ts";
import { type HeaderPatch, header, patchHeaders } from "./headers.ts";
import { textOf } from "./inspect.ts";
import { type Once, storeError } from "./once.ts";
import type { Outcome } from "./outcome.ts";
import { deadLetterPatch, laterPatch, retryPatch } from "./record.ts";
import { jittered, retryLoop } from "./retry/loop.ts";
import { type Work, infoOf, waitWith } from "./work.ts";

export interface SettleContext {
  readonly runtime: Runtime;
  readonly subscription: Subscription;
  readonly topic: TopicSpec;
  /** Longest delay the adapter takes; longer ones are made of several. */
  readonly maxDelayMs: number;
  readonly once: Once;
  readonly emit: EventListener;
  /** Aborted when nothing may be tried again: the consumer is leaving. */
  readonly leaving: AbortSignal;
}

/** Settles `work` by `outcome`. Resolves when that is done, too late, or given up because the consumer is leaving. */
export function createSettle(context: SettleContext): (work: Work, outcome: Outcome) => Promise<void> {
  const { runtime, once, emit, leaving } = context;
  const backoff = jittered(runtime, "settle", 100, 30_000);
  const perform = createPerform(context);

  const performOrThrow = async (work: Work, outcome: Outcome): Promise<SettleResult> => {
    if (work.state === "ended" || work.lost) return { status: "stale" };
    const result = await perform(work, outcome);
    if (result.status === "failed") throw result.error;
    return result;
  };

  /** Tries until it works; rejects only when the consumer leaves or the delivery is lost. */
  const insist = <T>(
    work: Work,
    act: () => Promise<T>,
    report: (error: unknown, delayMs: number) => void,
  ): Promise<T> =>
    retryLoop(
      (ms) => waitWith(work, runtime, ms, leaving),
      act,
      (error, n) => {
        const delayMs = backoff(n);
        report(error, delayMs);
        return leaving.aborted || work.lost ? undefined : delayMs;
      },
    );

  const seal = (work: Work, outcome: Outcome): Promise<Outcome> =>
    insist(
      work,
      () => once.seal(work.inboxKey, outcome, () => deadLetterEntry(context, work, outcome)),
      (error, delayMs) => emit({ type: "storeFailed", error: storeError(error), delayMs, ...infoOf(work) }),
    );

  /** Tells the inbox what became of the message; a claim that cannot be ended now runs out by itself. */
  const tellInbox = (work: Work, outcome: Outcome): Promise<void> =>
    once.settled(work.inboxKey, outcome).catch((error: unknown) => {
      emit({ type: "storeFailed", error: storeError(error), delayMs: 0, ...infoOf(work) });
    });

  const settle = async (work: Work, outcome: Outcome): Promise<Outcome | "stale"> => {
    try {
      const sealed = await seal(work, outcome);
      const result = await insist(
        work,
        () => performOrThrow(work, sealed),
        (error, delayMs) =>
          emit({ type: "settleFailed", error: settleError(error), delayMs, ...infoOf(work) }),
      );
      return result.status === "stale" ? "stale" : sealed;
    } catch (error) {
      if (work.lost) return "stale";
      throw error;
    }
  };

  return async (work, outcome) => {
    if (work.state === "ended") return;
    try {
      const settled = await settle(work, outcome);
      work.state = "ended";
      emitOutcome(emit, work, settled);
      // What was settled too late was not settled: its message comes again, and must not find itself ended.
      await tellInbox(work, settled === "stale" ? { kind: "release" } : settled);
    } catch (error) {
      if (!leaving.aborted) throw error;
      // The message comes again, elsewhere and soon: it must not find itself claimed.
      await tellInbox(work, { kind: "release" });
    }
  };
}

/** One try at settling, by the adapter. */
function createPerform({
  runtime,
  subscription,
  maxDelayMs,
}: SettleContext): (work: Work, outcome: Outcome) => Promise<SettleResult> {
  const acks = createCoalescer<RawDelivery, SettleResult>({
    runtime,
    maxBatch: 1_000,
    maxInFlight: 4,
    send: (deliveries) => subscription.ack(deliveries),
  });

  /** A delay the adapter cannot keep in one go is waited for in several: the message finds out that it is not due yet. */
  const defer = ({ raw }: Work, delayMs: number, patch: HeaderPatch): Promise<SettleResult> => {
    if (delayMs <= maxDelayMs) return subscription.defer(raw, delayMs, patch);
    const dueAt = String(runtime.now() + delayMs);
    return subscription.defer(raw, maxDelayMs, { ...patch, [header.notBefore]: dueAt });
  };

  return async (work, outcome) => {
    switch (outcome.kind) {
      case "ack":
      case "duplicate":
      case "discard":
        return acks.push(work.raw);
      case "retry":
        return defer(work, outcome.delayMs, retryPatch(work));
      case "later":
        return defer(work, outcome.delayMs, laterPatch(work));
      case "release":
        return (await subscription.release([work.raw]))[0] ?? { status: "stale" };
      case "deadLetter": {
        if (outcome.stored === true) return acks.push(work.raw);
        const patch = deadLetterPatch(work, outcome.reason, outcome.error, runtime.now());
        return subscription.deadLetter(work.raw, patch);
      }
    }
  };
}

/** Adapters do not throw; one that does all the same has not settled. */
function settleError(error: unknown): MessagingError {
  if (MessagingError.is(error)) return error;
  return new SettleError(`settling failed: ${textOf(error)}`, { cause: error });
}

/** A dead letter that leaves through the outbox. */
function deadLetterEntry(context: SettleContext, work: Work, outcome: Outcome): OutgoingMessage {
  const { reason, error } = outcome as Outcome & { kind: "deadLetter" };
  const { message, group } = work.raw;
  const patch = deadLetterPatch(work, reason, error, context.runtime.now());
  return {
    destination: { topic: context.topic, group, dead: true },
    message: { ...message, headers: patchHeaders(message.headers, patch) },
    durability: "replicated",
    requireRoute: false,
  };
}

function emitOutcome(emit: EventListener, work: Work, outcome: Outcome | "stale"): void {
  const info = infoOf(work);
  if (outcome === "stale") return emit({ type: "staleSettle", ...info });
  switch (outcome.kind) {
    case "ack":
      return emit({ type: "handled", ...info });
    case "duplicate":
      return emit({ type: "duplicate", ...info });
    case "discard":
      return emit({ type: "discarded", reason: outcome.reason, ...info });
    case "deadLetter":
      return emit({ type: "deadLettered", reason: outcome.reason, error: outcome.error, ...info });
    case "retry":
    case "later":
    case "release":
      return undefined;
  }
}
