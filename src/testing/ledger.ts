/**
 * What was sent against what came: the counts that Jepsen's total-queue checker reports (jepsen/checker.clj). Only
 * meaningful after everything was drained.
 */
import assert from "node:assert/strict";

export interface LedgerCounts {
  /** Sends started. */
  readonly attempts: number;
  /** Sends confirmed. */
  readonly acknowledged: number;
  /** Confirmed and never delivered: must be 0. */
  readonly lost: number;
  /** Delivered though never sent: must be 0. */
  readonly unexpected: number;
  /** Deliveries beyond the first of an id. */
  readonly duplicated: number;
  /** Not confirmed, but delivered all the same. */
  readonly recovered: number;
}

export interface Ledger {
  attempted(id: string): void;
  acknowledged(id: string): void;
  delivered(id: string): void;
  /** Confirmed ids that have not been delivered. */
  missing(): string[];
  counts(): LedgerCounts;
  /** Throws unless nothing is lost and nothing unexpected. */
  assertValid(): void;
}

export function createLedger(): Ledger {
  const attempts = new Set<string>();
  const acknowledged = new Set<string>();
  const delivered = new Map<string, number>();
  const missing = (): string[] => [...acknowledged].filter((id) => !delivered.has(id));
  const counts = (): LedgerCounts => {
    const ids = [...delivered.keys()];
    return {
      attempts: attempts.size,
      acknowledged: acknowledged.size,
      lost: missing().length,
      unexpected: ids.filter((id) => !attempts.has(id)).length,
      duplicated: [...delivered.values()].reduce((sum, n) => sum + n - 1, 0),
      recovered: ids.filter((id) => attempts.has(id) && !acknowledged.has(id)).length,
    };
  };
  return {
    attempted: (id) => void attempts.add(id),
    acknowledged: (id) => void acknowledged.add(id),
    delivered: (id) => void delivered.set(id, (delivered.get(id) ?? 0) + 1),
    missing,
    counts,
    assertValid() {
      const { lost, unexpected } = counts();
      assert.ok(lost === 0 && unexpected === 0, `ledger: ${JSON.stringify(counts())}`);
    },
  };
}
