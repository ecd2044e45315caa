/** What becomes of a delivery. Decided first, by `retry/policy.ts`; executed after, by `settle.ts`. */
import { type Duration, toMs } from "./duration.ts";
import { CodecError, ConfigurationError } from "./errors.ts";
import type { DeadLetterReason } from "./events.ts";
import { show } from "./inspect.ts";

/** The fate of one delivery. */
export type Outcome =
  | { readonly kind: "ack" }
  /** Already handled before; settled like `ack`. */
  | { readonly kind: "duplicate" }
  | { readonly kind: "discard"; readonly reason: string }
  /** Hand over again after `delayMs`; the attempt is counted. */
  | {
      readonly kind: "retry";
      readonly delayMs: number;
      readonly error: unknown;
      /** No attempt was left: the lane of its key stays blocked until one succeeds all the same. */
      readonly blocks?: boolean;
    }
  /** Hand over again after `delayMs`; no attempt is counted (not due yet, or somebody else is handling it). */
  | { readonly kind: "later"; readonly delayMs: number }
  /** Give back at once; no attempt is counted (shutdown). */
  | { readonly kind: "release" }
  | {
      readonly kind: "deadLetter";
      readonly reason: DeadLetterReason;
      readonly error: unknown;
      /** The dead letter is already in the outbox, written in the handler's transaction: only the ack is left. */
      readonly stored?: boolean;
    };

/** One attempt that did not end in an outcome; `retry/policy.ts` decides what becomes of it. */
export interface FailedAttempt {
  readonly kind: "failed";
  /** What the handler threw: anything. */
  readonly error: unknown;
  /** The handler's own delay, from `retryAfter`. */
  readonly delayMs?: number | undefined;
}

const directive: unique symbol = Symbol.for("postrider.directive");

/** What a handler may return to say what becomes of its message. Made by `retryAfter`, `deadLetter` and `discard`. */
export interface Directive {
  readonly [directive]: true;
  readonly kind: "retryAfter" | "deadLetter" | "discard";
  readonly delayMs?: number;
  readonly reason?: string;
}

/** Whether a handler's result is one of ours; any other result is ignored and means ack. */
export function isDirective(value: unknown): value is Directive {
  return typeof value === "object" && value !== null && directive in value;
}

/**
 * Returned by a handler: hand the message over again after `delay`. Counts as an attempt; after the last one it is
 * dead-lettered. Throws `ERR_DELAY` on a delay that is none.
 *
 * @example
 * if (response.status === 429) return retryAfter("5m");
 */
export function retryAfter(delay: Duration): Directive {
  return { [directive]: true, kind: "retryAfter", delayMs: toMs(delay, "retryAfter", { code: "ERR_DELAY" }) };
}

/** Returned by a handler: move the message to the dead letters now, with this reason. */
export function deadLetter(reason: string): Directive {
  return { [directive]: true, kind: "deadLetter", reason: checkReason("deadLetter", reason) };
}

/** Returned by a handler: the message is of no use; settle it without effect. */
export function discard(reason: string): Directive {
  return { [directive]: true, kind: "discard", reason: checkReason("discard", reason) };
}

function checkReason(what: string, reason: unknown): string {
  if (typeof reason !== "string" || reason === "" || !reason.isWellFormed()) {
    throw new CodecError("ERR_VALIDATION", `${what} takes a reason, a non-empty string; got ${show(reason)}`);
  }
  return reason.slice(0, 200).toWellFormed();
}

/**
 * The outcome a middleware resolved with, reduced to what a middleware may say. Throws `ERR_CONFIG` when it is none, such as
 * the `undefined` of a middleware that forgot to return what `next()` gave it.
 */
export function checkOutcome(value: unknown): Outcome {
  const outcome = value as Partial<Record<"reason" | "delayMs" | "error", unknown>> & {
    readonly kind?: string;
  };
  const { delayMs, reason } = outcome ?? {};
  const timed = typeof delayMs === "number" && delayMs >= 0;
  switch (outcome?.kind) {
    case "ack":
    case "duplicate":
    case "release":
      return { kind: outcome.kind };
    case "discard":
      return { kind: "discard", reason: String(reason) };
    case "deadLetter":
      // Without `stored`, or `blocks`: only the core knows that.
      return { kind: "deadLetter", reason: String(reason), error: outcome.error };
    case "retry":
      if (timed) return { kind: "retry", delayMs, error: outcome.error };
      break;
    case "later":
      if (timed) return { kind: "later", delayMs };
      break;
  }
  throw new ConfigurationError(
    "ERR_CONFIG",
    `a middleware gave no outcome but ${show(value)}; let it \`return await next()\``,
  );
}
