/**
 * The rows that are on their way to the broker. What must keep its order forms a chain, in which a row goes out only after
 * the one before it was confirmed; chains run side by side. When a row fails, the rest of its chain is put back, and so is
 * what a fetch had read of it that began before the failure: that page does not have the row which comes first.
 */
import type { OutboxRow } from "../store.ts";

/** How publishing one row ended; only after `sent` and `parked` may the next row of its chain go out. */
export type RowResult = "sent" | "parked" | "refused" | "failed";

export interface TransitContext {
  /** Rows with the same chain keep their order; `undefined` keeps none. */
  chainOf(row: OutboxRow): string | undefined;
  /** Whether rows may still go out. */
  mayPublish(): boolean;
  publish(row: OutboxRow): Promise<RowResult>;
  /** Confirmed: the row may be deleted. It is left out of fetches until `forget`. */
  onSent(row: OutboxRow): void;
  /** Called after each change; must not throw. */
  onChange(): void;
}

export interface Transit {
  /** Numbers a fetch that begins now. */
  beginFetch(): number;
  /** Sends the rows of a fetch. */
  take(rows: readonly OutboxRow[], fetch: number): void;
  /** All that a fetch must leave out: on its way, or confirmed and not yet deleted. */
  readonly taken: ReadonlySet<bigint>;
  /** These are deleted. */
  forget(seqs: readonly bigint[]): void;
  /** Rows without an outcome. */
  readonly waiting: number;
  /** Outcomes since the last call. Rejects nothing: the error of a `publish` that threw is in it. */
  outcomes(): Outcomes;
}

interface Outcomes {
  readonly sent: number;
  readonly refused: number;
  readonly failed: number;
  /** What `publish` threw: the store has failed. */
  readonly error?: unknown;
}

const none: Outcomes = { sent: 0, refused: 0, failed: 0 };

export function createTransit(context: TransitContext): Transit {
  const taken = new Set<bigint>();
  /** Rows behind the one that is under way. */
  const chains = new Map<string, OutboxRow[]>();
  /** Chains that broke, by the last fetch that had begun by then. */
  const broken = new Map<string, number>();
  let fetches = 0;
  let waiting = 0;
  let outcomes = none;

  const putBack = (rows: readonly OutboxRow[]): void => {
    for (const { seq } of rows) taken.delete(seq);
    waiting -= rows.length;
  };

  /** Whether the next row of the chain may go out. */
  const send = async (row: OutboxRow): Promise<boolean> => {
    if (!context.mayPublish()) {
      putBack([row]);
      context.onChange();
      return false;
    }
    const result = await context.publish(row).catch((error: unknown) => {
      outcomes = { ...outcomes, error };
      return "failed" as const;
    });
    if (result === "sent") {
      waiting -= 1;
      context.onSent(row);
    } else putBack([row]);
    if (result !== "parked") outcomes = { ...outcomes, [result]: outcomes[result] + 1 };
    context.onChange();
    return result === "sent" || result === "parked";
  };

  const run = async (chain: string | undefined, first: OutboxRow): Promise<void> => {
    if (chain === undefined) return void (await send(first));
    const behind: OutboxRow[] = [];
    chains.set(chain, behind);
    for (let row: OutboxRow | undefined = first; row !== undefined; row = behind.shift()) {
      if (await send(row)) continue;
      broken.set(chain, fetches);
      putBack(behind);
      context.onChange();
      break;
    }
    chains.delete(chain);
  };

  return {
    beginFetch: () => (fetches += 1),
    take(rows, fetch) {
      for (const [chain, since] of broken) if (since < fetch) broken.delete(chain);
      for (const row of rows) {
        const chain = context.chainOf(row);
        if (taken.has(row.seq) || (chain !== undefined && broken.has(chain))) continue;
        taken.add(row.seq);
        waiting += 1;
        const behind = chain === undefined ? undefined : chains.get(chain);
        if (behind === undefined) void run(chain, row);
        else behind.push(row);
      }
    },
    taken,
    forget(seqs) {
      for (const seq of seqs) taken.delete(seq);
    },
    get waiting() {
      return waiting;
    },
    outcomes() {
      const since = outcomes;
      outcomes = none;
      return since;
    },
  };
}
