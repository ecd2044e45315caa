/**
 * Retry topics: a few per group, each for delays up to a bound. A record waits in the smallest that is long enough, with its
 * due time in a header; one that waits longer than the largest is written again there each time the bound has passed.
 */

/** Bounds in milliseconds; `<topic>--<group>--retry-10s`, `--retry-10m`, `--retry-1d`. */
export const tierBoundsMs: readonly number[] = [10_000, 600_000, 86_400_000];

/** Every group has those up to here, so that a long delay nobody announced does not hop every ten seconds. */
const usualMs = 600_000;

/** The tiers of a group whose policy asks for delays up to `longestMs`. */
export function tiersFor(longestMs: number): readonly number[] {
  const needed = Math.max(longestMs, usualMs);
  const last = tierBoundsMs.findIndex((bound) => bound >= needed);
  return last === -1 ? tierBoundsMs : tierBoundsMs.slice(0, last + 1);
}

/** Where a record with this delay waits. */
export function tierOf(delayMs: number, tiers: readonly number[]): number {
  return tiers.find((bound) => bound >= delayMs) ?? (tiers.at(-1) as number);
}

/** How long to hold a record that was just read, and whether it goes on waiting elsewhere after that. */
export interface Hold {
  readonly waitMs: number;
  readonly hop: boolean;
}

/**
 * `dueAt` and `writtenAt` are of the writer's clock, so their difference is the delay whatever this clock says. A clock that
 * jumps can shorten a wait by its jump; it never makes one longer than the delay, counted from the first sight.
 */
export function holdFor(dueAt: number, writtenAt: number, now: number, boundMs: number): Hold {
  const delayMs = Math.max(0, dueAt - writtenAt);
  const leftMs = Math.min(Math.max(0, dueAt - now), delayMs);
  // What is left may be a little more than the bound when it is written: that is no reason to hop.
  return leftMs > boundMs * 1.01 ? { waitMs: boundMs, hop: true } : { waitMs: leftMs, hop: false };
}
