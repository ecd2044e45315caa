import { ConfigurationError } from "./errors.ts";
import { show } from "./inspect.ts";

/**
 * A length of time: a number of milliseconds, or a number with its unit. A wrong unit does not compile.
 *
 * @example
 * 250; "250ms"; "10s"; "5m"; "2h"; "1d"
 */
export type Duration = number | `${number}ms` | `${number}s` | `${number}m` | `${number}h` | `${number}d`;

const unitMs = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const pattern = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/;

/** The longest duration any option accepts: 365 days. */
export const maxDurationMs: number = 365 * unitMs.d;

/** What an option allows, and the code its error carries. */
export interface DurationLimits {
  readonly min?: number;
  readonly max?: number;
  readonly code?: "ERR_CONFIG" | "ERR_DELAY";
}

/**
 * Milliseconds of a duration. Throws `ConfigurationError` (`ERR_CONFIG`, or the given code) naming the option,
 * the value and the allowed range.
 */
export function toMs(value: unknown, option: string, limits: DurationLimits = {}): number {
  const { min = 0, max = maxDurationMs, code = "ERR_CONFIG" } = limits;
  const ms = parse(value);
  if (ms === undefined || !Number.isFinite(ms)) {
    throw new ConfigurationError(
      code,
      `${option} must be milliseconds or a duration such as "250ms", "10s", "5m", "2h" or "1d", got ${show(value)}`,
    );
  }
  if (ms < min || ms > max) {
    throw new ConfigurationError(
      code,
      `${option} must be between ${min} ms and ${max} ms, got ${show(value)}`,
    );
  }
  return ms;
}

function parse(value: unknown): number | undefined {
  if (typeof value === "number") return value;
  if (typeof value !== "string") return undefined;
  const match = pattern.exec(value);
  if (match === null) return undefined;
  return Math.round(Number(match[1]) * unitMs[match[2] as keyof typeof unitMs]);
}

/** A duration as a name carries it: the largest unit that is exact (`30s`, `5m`, `250ms`). */
export function formatDuration(ms: number): string {
  for (const unit of ["d", "h", "m", "s"] as const) {
    if (ms >= unitMs[unit] && ms % unitMs[unit] === 0) return `${ms / unitMs[unit]}${unit}`;
  }
  return `${ms}ms`;
}
