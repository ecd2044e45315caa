/** The backend of a child process: on the broker and the database of the one that started it. */
import type { Backend } from "postrider/testing";
import type { Adapter } from "postrider/spi";
import { openSqliteDatabase } from "../sqlite-database.ts";

export interface Place {
  /** How the broker is reached, faults and all. */
  readonly url: string;
  /** The file of the database. */
  readonly path: string;
}

export function addressOf(place: Place): string {
  return JSON.stringify(place);
}

export async function joinBackend(address: string, adapter: (url: string) => Adapter): Promise<Backend> {
  const { url, path } = JSON.parse(address) as Place;
  const database = await openSqliteDatabase(path);
  const refuse = (): Promise<never> =>
    Promise.reject(new Error("only the process that runs the scenarios can do that"));
  return {
    address,
    adapter: () => adapter(url),
    database,
    faults: {
      holdReplies: refuse,
      cutConnections: refuse,
      stallConnections: refuse,
      refuseConnections: refuse,
      slowConnections: refuse,
      deleteGroup: refuse,
      restartBroker: refuse,
      refuseDeadLetters: refuse,
    },
    foreign: { maxHeaderBytes: 0, publish: refuse },
    close: () => database.close(),
  };
}
