/** Turns on one connection: what the callers of an outbox add at the same time goes out together. */
import type { OutboxEntry } from "../store.ts";

export interface AppendQueue {
  /** Resolves when `send` has, be it with more entries than these. */
  push(
    entries: readonly OutboxEntry[],
    send: (entries: readonly OutboxEntry[]) => Promise<void>,
  ): Promise<void>;
}

/**
 * One `send` at a time; what is asked for meanwhile waits and becomes the next one. A client must not be given a statement
 * while it runs another (pg 9 refuses), handlers publish in `Promise.all`, and the order must stay that of the calls.
 */
export function createAppendQueue(): AppendQueue {
  let waiting: { readonly entries: OutboxEntry[]; readonly sent: Promise<void> } | undefined;
  let last: Promise<unknown> = Promise.resolve();
  let busy = false;
  return {
    push(entries, send) {
      if (waiting !== undefined) {
        waiting.entries.push(...entries);
        return waiting.sent;
      }
      const all = [...entries];
      const start = (): Promise<void> => {
        waiting = undefined;
        return send(all);
      };
      const sent = busy ? last.then(start, start) : start();
      if (busy) waiting = { entries: all, sent };
      busy = true;
      const done = sent.then(
        () => undefined,
        () => undefined,
      );
      last = done;
      void done.then(() => (busy = last !== done));
      return sent;
    },
  };
}
