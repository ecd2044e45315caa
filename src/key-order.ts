/**
 * Keeps the order of sends that share a key while one of them has to be repeated: until everything that was under way at
 * the failure is over, only the oldest may try, and what comes later waits. Without failures nobody waits.
 */

/** One send's place among those of its key. */
export interface Turn {
  /** Calls `act` now, or as soon as it is this send's turn. */
  start<T>(act: () => Promise<T>): Promise<T>;
  /** The latest try failed and will be repeated. */
  failed(): void;
  /** It is over, one way or the other. Twice is fine. */
  end(): void;
}

export interface KeyOrder {
  /** Takes the next place of `key`. Without a key there is no order to keep. */
  enter(key: string | undefined): Turn;
  /** Keys of which something is under way. */
  readonly size: number;
}

/** The sends of one key that are not over. */
interface Queue {
  /** Oldest first. */
  readonly entries: Set<Entry>;
  /** Number of the youngest entry there was at the last failure: up to it they try one at a time. */
  recoverUpTo: number;
}

interface Entry {
  readonly number: number;
  /** What waits for its turn. */
  waiting: (() => void) | undefined;
}

const unordered: Turn = { start: (act) => act(), failed: () => undefined, end: () => undefined };

export function createKeyOrder(): KeyOrder {
  const queues = new Map<string, Queue>();
  let entered = 0;

  const enter = (key: string): Turn => {
    const queue = queues.get(key) ?? { entries: new Set(), recoverUpTo: 0 };
    queues.set(key, queue);
    const entry: Entry = { number: (entered += 1), waiting: undefined };
    queue.entries.add(entry);
    return {
      start(act) {
        if (!isRecovering(queue) || oldestOf(queue) === entry) return act();
        return new Promise((resolve, reject) => {
          entry.waiting = () => void act().then(resolve, reject);
        });
      },
      failed() {
        if (!isRecovering(queue)) queue.recoverUpTo = entered;
      },
      end() {
        const wasRecovering = isRecovering(queue);
        if (!queue.entries.delete(entry)) return;
        if (queue.entries.size === 0) queues.delete(key);
        if (wasRecovering) startWhoMay(queue);
      },
    };
  };

  return {
    enter: (key) => (key === undefined ? unordered : enter(key)),
    get size() {
      return queues.size;
    },
  };
}

function oldestOf(queue: Queue): Entry | undefined {
  return queue.entries.values().next().value;
}

function isRecovering(queue: Queue): boolean {
  const oldest = oldestOf(queue);
  return oldest !== undefined && oldest.number <= queue.recoverUpTo;
}

/** While recovering the oldest; after it everybody who waits, in order. */
function startWhoMay(queue: Queue): void {
  const oldest = oldestOf(queue);
  for (const entry of isRecovering(queue) && oldest !== undefined ? [oldest] : queue.entries) {
    const start = entry.waiting;
    entry.waiting = undefined;
    start?.();
  }
}
