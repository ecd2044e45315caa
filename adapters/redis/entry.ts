/** What is read from streams, and what is known of it while it is ours. */
import type { RawDelivery } from "../../src/spi.ts";

/** An entry as the server tells it. `null`: it was deleted. */
export type Entry = readonly [id: Buffer, fields: readonly Buffer[] | null];

/** Which of the two streams of a group: everybody's or its own. */
export type Source = "main" | "own";

/** As whom entries are read: settling one makes sure that this still holds. */
export interface Claim {
  /** The consumer that the server has them pending for. */
  readonly consumer: string;
  /** Key of the lease under which they are read. */
  readonly owner: string;
  /** What that key holds meanwhile; empty where there is no lease. */
  readonly ownership: string;
}

/** An entry that was read for this subscription. */
export interface ReadEntry {
  readonly claim: Claim;
  readonly source: Source;
  readonly id: string;
  readonly fields: readonly Buffer[];
  /** Earlier hand-overs that the server counted. */
  readonly redeliveries: number;
}

/** A delivery that was handed over and is not settled. */
export interface Held extends ReadEntry {
  readonly delivery: RawDelivery;
  /** Somebody deleted the entry meanwhile: the server knows nothing of it any more, its only copy is here. */
  orphaned: boolean;
  /** An earlier settle of it had no answer: when it is pending no longer, it was that. */
  unanswered: boolean;
}

/** One key for a place in either stream. */
export function keyOf({ source, id }: Pick<ReadEntry, "source" | "id">): string {
  return source === "main" ? id : `own/${id}`;
}

/** Whether an id of a stream comes before another. Their parts may have 64 bits, more than a number holds. */
export function isBefore(a: string, b: string): boolean {
  const [aTime = "", aSequence = "0"] = a.split("-");
  const [bTime = "", bSequence = "0"] = b.split("-");
  return aTime === bTime ? isLess(aSequence, bSequence) : isLess(aTime, bTime);
}

function isLess(a: string, b: string): boolean {
  return a.length === b.length ? a < b : a.length < b.length;
}
