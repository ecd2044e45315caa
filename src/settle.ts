/**
 * Outcome to adapter calls, in the safe order, once. A settle that fails is tried again with growing waits while the
 * delivery stays unsettled; only the broker taking it back, or closing, ends that.
 */
import type { OutgoingMessage, SettleResult, Subscription, TopicSpec } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { createCoalescer } from "./coalesce.ts";
import { type MessagingError, SettleError } from "./errors.ts";
import type { EventListener } from "./events.ts";
import { patchHeaders } from "./headers.ts";
import { type Once, storeError } from "./once.ts";
import type { Outcome } from "./outcome.ts";
import type { RawDelivery } from "./adapter.ts";
import { deadLetterPatch, laterPatch, retryPatch } from "./record.ts";
import { jittered, retryLoop } from "./retry/loop.ts";
import { type Work, infoOf } from "./work.ts";

export interface SettleContext {
  readonly runtime: Runtime;
  readonly subscription: Subscription;
  readonly topic: TopicSpec;
  readonly once: Once;
  readonly emit: EventListener;
  /** Aborted when nothing may be tried again: the consumer is leaving. */
  readonly leaving: AbortSignal;
}

/** Settles `work` by `outcome`. Resolves when that is done, too late, or given up because the consumer is leaving. */
export function createSettle(context: SettleContext): (work: Work, outcome: Outcome) => Promise<void> {
  const { runtime, subscription, once, emit } = context;
  const backoff = jittered(runtime, "settle", 100, 30_000);
  const acks = createCoalescer<RawDelivery, SettleResult>({
    runtime,
    maxBatch: 1_000,
    maxInFlight: 4,
    send: (deliveries) => subscription.ack(deliveries),
  });

  const perform = (work: Work, outcome: Outcome): Promise<SettleResult> => {
    switch (outcome.kind) {
      case "ack":
      case "duplicate":
      case "discard":
        return acks.push(work.raw);
      case "retry":
        return subscription.defer(work.raw, outcome.delayMs, retryPatch(work));
      case "later":
        return subscription.defer(work.raw, outcome.delayMs, laterPatch(work));
      case "release":
        return subscription.release([work.raw]).then((results) => results[0] ?? { status: "stale" });
      case "deadLetter":
        if (outcome.stored === true) return acks.push(work.raw);
        return subscription.deadLetter(
          work.raw,
          deadLetterPatch(work, outcome.reason, outcome.error, runtime.now()),
        );
    }
  };

  const performOrThrow = async (work: Work, outcome: Outcome): Promise<SettleResult> => {
    if (work.state === "ended") return { status: "stale" };
    const result = await perform(work, outcome).catch((cause: unknown): SettleResult => ({
      status: "failed",
      error: new SettleError(`settling failed: ${String(cause)}`, { cause }),
    }));
    if (result.status === "failed") throw result.error;
    return result;
  };

  /** Tries until it works; rejects only when the consumer leaves. */
  const insist = <T>(work: Work, kind: "settleFailed" | "storeFailed", act: () => Promise<T>): Promise<T> =>
    retryLoop(
      (ms) => runtime.sleep(ms, context.leaving),
      act,
      (error, n) => {
        const delayMs = backoff(n);
        emit({ type: kind, error: error as MessagingError, delayMs, ...infoOf(work) });
        return context.leaving.aborted ? undefined : delayMs;
      },
    );

  const seal = (work: Work, outcome: Outcome): Promise<Outcome> =>
    insist(work, "storeFailed", () =>
      once
        .seal(work.inboxKey, outcome, () => deadLetterEntry(context, work, outcome))
        .catch((error: unknown) => Promise.reject(storeError(error))),
    );

  return async (work, outcome) => {
    if (work.state === "ended") return;
    try {
      const sealed = await seal(work, outcome);
      const result = await insist(work, "settleFailed", () => performOrThrow(work, sealed));
      work.state = "ended";
      emitOutcome(emit, work, result.status === "stale" ? "stale" : sealed);
      await once.settled(work.inboxKey, sealed).catch((error: unknown) => {
        emit({ type: "storeFailed", error: storeError(error), delayMs: 0, ...infoOf(work) });
      });
    } catch (error) {
      if (!context.leaving.aborted) throw error;
    }
  };
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
