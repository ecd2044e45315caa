/**
 * NOTIFY and LISTEN, for relays of other processes. Never in a transaction of the user's: committing with a notice takes a
 * lock that all databases of the server share, held until the commit is on disk. One channel, told apart by what it carries.
 */
import type { ClientBase } from "pg";
import type { OutboxStore } from "../../src/spi.ts";
import type { PostgresDatabase } from "./connection.ts";
import { queryOf } from "./connection.ts";

const channel = "postrider";
/** A notice to oneself takes a round trip; a pooler in transaction mode swallows it. */
const echoTimeoutMs = 2_000;

export function createNotices(
  database: PostgresDatabase,
  schema: string,
): Pick<Required<OutboxStore>, "announce" | "listen"> {
  const send = async (payload: string): Promise<void> => {
    const text = `SELECT pg_notify('${channel}', $1)::text`;
    await database.query("telling other processes of new messages", { text, values: [payload] });
  };
  return {
    announce: () => send(schema),
    async listen(notice, ended) {
      const client = await database.dial();
      const { promise: over, resolve, reject } = Promise.withResolvers<boolean>();
      const onEnded = (): void => resolve(true);
      try {
        client.on("error", reject);
        client.on("end", () => reject(new Error("the connection was closed")));
        ended.addEventListener("abort", onEnded, { once: true });
        if (ended.aborted) onEnded();
        const heard = await Promise.race([over, proves(database, client, send)]);
        if (!heard) return false;
        client.on("notification", ({ payload }) => {
          if (payload === schema) notice();
        });
        return await over;
      } finally {
        over.catch(() => undefined);
        ended.removeEventListener("abort", onEnded);
        // Nobody waits for it: it may be dead already.
        client.end().catch(() => undefined);
      }
    },
  };
}

/** Whether what is announced over another connection is heard on this one. */
async function proves(
  { runtime }: PostgresDatabase,
  client: ClientBase,
  send: (payload: string) => Promise<void>,
): Promise<boolean> {
  const probe = runtime.newId();
  const { promise: heard, resolve } = Promise.withResolvers<boolean>();
  const onNotice = ({ payload }: { readonly payload?: string | undefined }): void => {
    if (payload === probe) resolve(true);
  };
  client.on("notification", onNotice);
  await client.query(queryOf({ text: `LISTEN ${channel}` }));
  await send(probe);
  const cancel = runtime.setTimer(echoTimeoutMs, () => resolve(false));
  try {
    return await heard;
  } finally {
    cancel();
    client.off("notification", onNotice);
  }
}
