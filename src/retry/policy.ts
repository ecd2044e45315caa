/** The one place that decides what becomes of a failed attempt: a pure function of what happened and of the policy. */
import { type Duration, maxDurationMs, toMs } from "../duration.ts";
import { MessagingError } from "../errors.ts";
import { checkFunction, checkInteger, checkKeys } from "../options.ts";
import type { Outcome } from "../outcome.ts";
import { type Backoff, exponential } from "./backoff.ts";

/** How failures are retried. */
export interface RetryOptions {
  /** Attempts in all, the first included, 1..1000. Default 8. */
  readonly maxAttempts?: number | undefined;
  /** Wait between attempts. Default `exponential({ min: "1s", max: "10m", jitter: "full" })`. */
  readonly backoff?: Backoff | undefined;
  /** No retry later than this after the first failure; then dead letter with reason `expired`. Default `"24h"`. */
  readonly maxAge?: Duration | undefined;
  /** `false` for an error means that no retry can help: dead letter now. Default: retry all but `NonRetryableError`. */
  readonly retryIf?: ((error: unknown) => boolean) | undefined;
}

/** `RetryOptions` checked and with defaults. */
export interface RetryPolicy {
  readonly maxAttempts: number;
  readonly backoff: Backoff;
  readonly maxAgeMs: number;
  readonly retryIf: (error: unknown) => boolean;
}

/** Throws `ERR_CONFIG`. */
export function createRetryPolicy(options: RetryOptions = {}): RetryPolicy {
  checkKeys("retry", options, ["maxAttempts", "backoff", "maxAge", "retryIf"]);
  const backoff = options.backoff ?? exponential();
  checkFunction("retry.backoff", backoff);
  if (options.retryIf !== undefined) checkFunction("retry.retryIf", options.retryIf);
  return {
    maxAttempts: checkInteger("retry.maxAttempts", options.maxAttempts ?? 8, 1, 1000),
    backoff,
    maxAgeMs: toMs(options.maxAge ?? "24h", "retry.maxAge", { min: 1 }),
    retryIf: options.retryIf ?? (() => true),
  };
}

/** One failed attempt. */
export interface Failure {
  /** What the handler threw. Anything: `throw null` is a failure too. */
  readonly error: unknown;
  /** How many attempts have failed, this one included. */
  readonly failures: number;
  /** Milliseconds since the first failed attempt of this message. */
  readonly ageMs: number;
  /** The handler's own delay, from `retryAfter`. */
  readonly delayMs?: number | undefined;
  /** The lane of its key waits for it however often it fails: running out of attempts or of time does not end it. */
  readonly blocks?: boolean | undefined;
}

/** Retry after how long, or dead letter why. `random` in [0, 1) is the jitter. */
export function decide(
  failure: Failure,
  policy: RetryPolicy,
  random: number,
): Outcome & { kind: "retry" | "deadLetter" } {
  const { error, failures, ageMs } = failure;
  if (isNonRetryable(error) || (failure.delayMs === undefined && !policy.retryIf(error))) {
    return { kind: "deadLetter", reason: "non-retryable", error };
  }
  const exhausted = failures >= policy.maxAttempts;
  if (exhausted && failure.blocks !== true) return { kind: "deadLetter", reason: "exhausted", error };
  const delayMs = clampDelay(failure.delayMs ?? policy.backoff(failures, random));
  const expired = ageMs + delayMs > policy.maxAgeMs;
  if (!exhausted && !expired) return { kind: "retry", delayMs, error };
  if (failure.blocks !== true) return { kind: "deadLetter", reason: "expired", error };
  return { kind: "retry", delayMs: Math.max(delayMs, minBlockedDelayMs), error, blocks: true };
}

/** Attempts without an end: a backoff of nothing must not make them a busy loop. */
const minBlockedDelayMs = 1_000;

function isNonRetryable(error: unknown): boolean {
  return MessagingError.is(error) && error.code === "ERR_NON_RETRYABLE";
}

/** A backoff or a middleware of the user's own may give anything; a retry must neither be lost nor spin. */
function clampDelay(ms: number): number {
  return Number.isFinite(ms) ? Math.min(Math.max(0, Math.round(ms)), maxDurationMs) : maxDelayOfUnknown;
}

const maxDelayOfUnknown = 60_000;

/** Longest delay the policy can ask for; what adapters prepare queues and topics for. */
export function longestDelayMs(policy: RetryPolicy): number {
  return Math.min(policy.backoff.maxMs ?? 86_400_000, policy.maxAgeMs);
}
