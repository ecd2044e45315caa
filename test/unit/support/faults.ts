import { TransportError } from "postrider";
import type { MemoryFaults, MemoryOperation } from "postrider/memory";

/** What a broker says when it has a bad moment. */
export const brokerError = (text = "bad moment"): TransportError => new TransportError("ERR_BROKER", text);
/** What it says when trying again is no use. */
export const fatalError = (): TransportError => new TransportError("ERR_AUTH", "wrong password");

/** The next `times` calls of `operation` have no effect and fail. Counts all calls of it, also those that are let through. */
export function failing(
  faults: MemoryFaults,
  operation: MemoryOperation,
  times: number,
  error: () => TransportError = brokerError,
): { calls: number } {
  const count = { calls: 0 };
  const before = faults.before;
  faults.before = (one) => {
    if (one !== operation) return before?.(one);
    count.calls += 1;
    return count.calls <= times ? error() : undefined;
  };
  return count;
}

/** The next `times` calls of `operation` take effect, but their answer is lost. */
export function unanswered(
  faults: MemoryFaults,
  operation: MemoryOperation,
  times: number,
): { calls: number } {
  const count = { calls: 0 };
  const after = faults.after;
  faults.after = (one) => {
    if (one !== operation) return after?.(one);
    count.calls += 1;
    return count.calls <= times ? brokerError("the answer was lost") : undefined;
  };
  return count;
}

/** Calls of `operation` hang, before they take effect or (`"after"`) before they are answered, until they are let go. */
export function holding(
  faults: MemoryFaults,
  operation: MemoryOperation,
  where: "before" | "after" = "before",
): { calls: number; letGo: (error?: TransportError) => void } {
  const { promise, resolve } = Promise.withResolvers<TransportError | undefined>();
  const held = { calls: 0, letGo: (error?: TransportError): void => resolve(error) };
  const others = faults[where];
  faults[where] = (one) => {
    if (one !== operation) return others?.(one);
    held.calls += 1;
    return promise;
  };
  return held;
}
