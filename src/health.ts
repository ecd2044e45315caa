/** What is up and what is not, from cached state: asking costs nothing and never waits. */

export interface HealthCheck {
  readonly status: "up" | "down";
  readonly error?: string | undefined;
  /** Whether it makes the bus not ready. */
  readonly critical: boolean;
}

export interface Health {
  /** `up`: all checks are. `degraded`: only checks that are not critical are down. */
  readonly status: "up" | "degraded" | "down";
  /** The process is worth keeping; `false` only after `close`. For `/livez`. */
  readonly live: boolean;
  /** Connected, consuming and not closing. For `/readyz`. */
  readonly ready: boolean;
  /** `adapter`, `store`, `relay`, `consumer <topic>--<group>`, and `lanes <topic>--<group>` where `onExhausted` is `"block"`. */
  readonly checks: Readonly<Record<string, HealthCheck>>;
}

/** One check from what a part says of itself. */
export function check(up: boolean, error: Error | undefined, critical: boolean): HealthCheck {
  return { status: up ? "up" : "down", critical, ...(error === undefined ? {} : { error: error.message }) };
}

/** Whether all keys of a group flow. One that is blocked is somebody's to look at; the process works on. */
export function checkLanes(blockedBy: readonly string[]): HealthCheck {
  if (blockedBy.length === 0) return check(true, undefined, false);
  const shown = blockedBy.slice(0, 3).join(", ");
  const more = blockedBy.length > 3 ? `, and ${blockedBy.length - 3} more` : "";
  return check(false, new Error(`keys are blocked by messages out of attempts: ${shown}${more}`), false);
}

export function summarize(
  checks: Readonly<Record<string, HealthCheck>>,
  open: "open" | "closing" | "closed",
): Health {
  const down = Object.values(checks).filter(({ status }) => status === "down");
  const criticalDown = down.some(({ critical }) => critical);
  const status = criticalDown || open === "closed" ? "down" : down.length > 0 ? "degraded" : "up";
  return { status, live: open !== "closed", ready: open === "open" && !criticalDown, checks };
}

/** Checks by name; of several parts with one name the worst is shown, so that one that works does not hide one that does not. */
export function collectChecks(
  parts: Iterable<readonly [string, HealthCheck]>,
): Readonly<Record<string, HealthCheck>> {
  const checks: Record<string, HealthCheck> = {};
  for (const [name, one] of parts) if (checks[name]?.status !== "down") checks[name] = one;
  return checks;
}
