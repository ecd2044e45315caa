/** How long to wait before the next attempt: pure functions, one strategy each. */
import { type Duration, toMs } from "../duration.ts";
import { ConfigurationError } from "../errors.ts";
import { checkKeys, checkOneOf } from "../options.ts";

/**
 * Milliseconds to wait after failed attempt number `attempt` (1, 2, …). `random` is a number in [0, 1) for jitter.
 * A function of your own fits wherever a `Backoff` is asked for.
 */
export interface Backoff {
  (attempt: number, random: number): number;
  /** The longest delay it can give, in milliseconds; adapters prepare for it. Without it, 24 hours are assumed. */
  readonly maxMs?: number;
}

export interface ExponentialOptions {
  /** Delay after the first failure. Default `"1s"`. */
  readonly min?: Duration | undefined;
  /** Longest delay. Default `"10m"`, or `min` when that is longer. */
  readonly max?: Duration | undefined;
  /** Growth per attempt. Default 2. */
  readonly factor?: number | undefined;
  /**
   * `"full"`: anything between 0 and the delay (spreads a burst of failures best). `"equal"`: between half the delay and
   * the delay. `"none"`: exactly the delay. Default `"full"`.
   */
  readonly jitter?: "full" | "equal" | "none" | undefined;
}

const defaultMaxMs = 600_000;

/**
 * Delays that grow by a factor: `min`, `min * factor`, … up to `max`. Throws `ERR_CONFIG`.
 *
 * @example
 * exponential({ min: "1s", max: "10m", jitter: "full" })
 */
export function exponential(options: ExponentialOptions = {}): Backoff {
  checkKeys("exponential", options, ["min", "max", "factor", "jitter"]);
  const minMs = toMs(options.min ?? "1s", "exponential min", { min: 1 });
  const maxMs = toMs(options.max ?? Math.max(defaultMaxMs, minMs), "exponential max", { min: minMs });
  const factor = options.factor ?? 2;
  if (typeof factor !== "number" || !(factor >= 1 && factor <= 100)) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `exponential factor must be a number 1..100, got ${String(factor)}`,
    );
  }
  const jitter = checkOneOf("exponential jitter", options.jitter ?? "full", ["full", "equal", "none"]);
  const backoff = (attempt: number, random: number): number => {
    const delay = Math.min(maxMs, minMs * factor ** Math.min(attempt - 1, 100));
    if (jitter === "none") return delay;
    return jitter === "full" ? delay * random : delay / 2 + (delay / 2) * random;
  };
  return Object.assign(backoff, { maxMs });
}

/** The same delay each time. Throws `ERR_CONFIG`. */
export function constant(delay: Duration): Backoff {
  const ms = toMs(delay, "constant delay");
  return Object.assign(() => ms, { maxMs: ms });
}
