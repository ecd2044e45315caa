import type { DeadLetterCursor, StoredDeadLetter } from "../../src/spi.ts";
import type { GroupQueue } from "./broker.ts";

/** A cursor over what was there when it was opened. */
export function openCursor(queue: GroupQueue): DeadLetterCursor {
  const ids = [...queue.dead.keys()];
  return {
    read(limit) {
      const letters: StoredDeadLetter[] = [];
      while (letters.length < limit) {
        const id = ids.shift();
        if (id === undefined) break;
        const entry = queue.dead.get(id);
        if (entry !== undefined)
          letters.push({ message: entry.message, position: String(entry.sequence), token: id });
      }
      return Promise.resolve(letters);
    },
    remove(letters) {
      for (const { token } of letters) queue.dead.delete(token as string);
      return Promise.resolve();
    },
    close: () => Promise.resolve(),
  };
}
