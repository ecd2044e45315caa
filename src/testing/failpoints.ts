/**
 * Ends or stops its own process at a point on a message's way. The points are at the two ports, around adapter and store: the
 * library itself knows nothing of them.
 */
import { writeSync } from "node:fs";
import type { Adapter } from "../adapter.ts";
import type { Store } from "../store.ts";

export type Point =
  /** A delivery is here, its consumer has not been told. */
  | "deliver"
  /** The handler has written its effect. */
  | "handle"
  /** The handler has ended, its transaction is not committed. */
  | "commit"
  /** What was handled is about to be acknowledged. */
  | "ack"
  /** The copy for a retry is confirmed. */
  | "deferred"
  /** The adapter has written a dead letter. */
  | "deadLettered"
  /** The relay has read rows and is about to publish them. */
  | "fetched"
  /** The relay has published rows and is about to remove them. */
  | "relayed"
  /** A dead letter is published again and about to be removed. */
  | "redriven";

export interface Failpoint {
  readonly at: Point;
  /** Which time it comes there: 1 is the first. */
  readonly nth: number;
  /** Default `"SIGKILL"`: no handler runs, nothing is flushed. */
  readonly signal?: "SIGKILL" | "SIGSTOP" | undefined;
}

/** What a process writes when it has come to its failpoint. */
export const reachedText = "failpoint reached";

/** Called at each point, in the very turn: what was written to a socket in this turn may not have left. */
export type Reached = (point: Point) => void;

export function createFailpoint({ at, nth, signal = "SIGKILL" }: Failpoint): Reached {
  let count = 0;
  return (point) => {
    if (point !== at) return;
    count += 1;
    if (count !== nth) return;
    writeSync(process.stdout.fd, `${reachedText}\n`);
    process.kill(process.pid, signal);
  };
}

export function watchAdapter(adapter: Adapter, reached: Reached): Adapter {
  around(adapter, "subscribe", (subscribe) => async (spec, sink) => {
    const subscription = await subscribe(spec, {
      deliver(deliveries) {
        for (const delivery of deliveries) {
          reached("deliver");
          sink.deliver([delivery]);
        }
      },
      lost: (deliveries) => sink.lost(deliveries),
    });
    around(subscription, "ack", (ack) => (deliveries) => {
      for (const _ of deliveries) reached("ack");
      return ack(deliveries);
    });
    around(subscription, "defer", (defer) => async (...given) => {
      const result = await defer(...given);
      if (result.status === "done") reached("deferred");
      return result;
    });
    around(subscription, "deadLetter", (deadLetter) => async (...given) => {
      const result = await deadLetter(...given);
      if (result.status === "done") reached("deadLettered");
      return result;
    });
    return subscription;
  });
  around(adapter, "openDeadLetters", (open) => async (spec) => {
    const cursor = await open(spec);
    around(cursor, "remove", (remove) => (letters) => {
      reached("redriven");
      return remove(letters);
    });
    return cursor;
  });
  return adapter;
}

/** Nobody need wait long for the lease of a relay that was killed. */
const relayLeaseMs = 1_000;

export function watchStore(store: Store, reached: Reached): Store {
  around(
    store,
    "transaction",
    (transaction) => (fn, signal) =>
      transaction(async (tx) => {
        const result = await fn(tx);
        reached("commit");
        return result;
      }, signal),
  );
  around(store.outbox, "acquire", (acquire) => (owner) => acquire(owner, relayLeaseMs));
  around(store.outbox, "fetch", (fetch) => async (spec) => {
    const page = await fetch(spec);
    if (page.rows.length > 0) reached("fetched");
    return page;
  });
  around(store.outbox, "remove", (remove) => (seqs, epoch) => {
    reached("relayed");
    return remove(seqs, epoch);
  });
  return store;
}

/** Puts something around a method of an object of ours. */
function around<T extends object, Name extends keyof T>(
  object: T,
  name: Name,
  wrap: (inner: T[Name]) => T[Name],
): void {
  const method = object[name] as (...given: unknown[]) => unknown;
  object[name] = wrap(method.bind(object) as T[Name]);
}
