/** What a subscription reads with. There are two kinds: competing for entries, and reading partitions alone. */
import type { Runtime } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import type { Claim, ReadEntry } from "./entry.ts";
import type { GroupKeys } from "./keys.ts";
import type { Link } from "./link.ts";

export interface Reader {
  /**
   * Entries for this consumer, in the order they shall be handled; waits for the first a moment. May give more than
   * `credit`: what is beyond has to be given back. Rejects with `RequestError`.
   */
  read(credit: number): Promise<readonly ReadEntry[]>;
  /** The connection was lost: what was read may be pending for this consumer and unknown here. */
  interrupted(): void;
  /** Entries that were read as these were given back. */
  givenBack(claims: ReadonlySet<Claim>): void;
  /** Gives up all that is still its own, known here or not. Rejects with `RequestError`. */
  leave(): Promise<void>;
}

export interface ReaderContext {
  readonly connection: RedisConnection;
  /** The connection it may block. */
  readonly link: Link;
  readonly keys: GroupKeys;
  readonly group: string;
  /** This subscription's name, which nobody else has. */
  readonly consumer: string;
  /** How many partitions a group with order has, unless it was made with another number. */
  readonly partitions: number;
  readonly leaseMs: number;
  readonly runtime: Runtime;
  /** Aborts when the subscription stops: what waits need not wait any longer. */
  readonly signal: AbortSignal;
  /** Whether an entry is with the consumer already. */
  holds(entry: Pick<ReadEntry, "source" | "id">): boolean;
  /** How many that were read as this one are. */
  heldBy(claim: Claim): number;
  /** Entries that were pending and are deleted. */
  onDeleted(count: number): void;
  /** Deferred copies could not be moved. */
  onTrouble(why: string): void;
  /** What was handed over as these is not ours any more. */
  onDisowned(claims: readonly Claim[]): void;
  /** The group has another number of partitions than asked for. */
  onPartitions(partitions: number): void;
}
