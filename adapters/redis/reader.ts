/** What a subscription reads with. There are two kinds: competing for entries, and reading for a group alone. */
import type { Runtime } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import type { ReadEntry } from "./entry.ts";
import type { Link } from "./link.ts";
import type { ReaderIdentity } from "./pending.ts";

export interface Reader {
  /** The ownership that settling needs, or empty where there is none. */
  ownership(): string;
  /**
   * Entries for this consumer, in the order they shall be handled; waits for the first a moment. May give more than
   * `credit`: what is beyond has to be given back. Rejects with `RequestError`.
   */
  read(credit: number): Promise<readonly ReadEntry[]>;
  /** The connection was lost: what was read may be pending for this consumer and unknown here. */
  interrupted(): void;
  /** Entries were given back. */
  givenBack(): void;
  /** Gives up what it holds besides entries. */
  leave(): Promise<void>;
}

export interface ReaderContext {
  readonly connection: RedisConnection;
  /** The connection it may block. */
  readonly link: Link;
  readonly identity: ReaderIdentity;
  readonly leaseMs: number;
  readonly runtime: Runtime;
  /** Aborts when the subscription stops: what waits need not wait any longer. */
  readonly signal: AbortSignal;
  /** Whether an entry is with the consumer already. */
  holds(entry: Pick<ReadEntry, "source" | "id">): boolean;
  /** Entries that were pending and are deleted. */
  onDeleted(count: number): void;
  /** Deferred copies could not be moved. */
  onTrouble(why: string): void;
  /** The group is read by somebody else now: nothing that was handed over is ours any more. */
  onDisowned(): void;
}
