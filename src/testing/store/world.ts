/** Makes the world of one scenario of the store suite and takes it down again. */
import { type Runtime, nodeRuntime } from "../../clock.ts";
import type { BusEvent } from "../../events.ts";
import { headerMap } from "../../headers.ts";
import type { OutboxEntry, Store } from "../../store.ts";
import { eventually } from "../eventually.ts";
import type { StoreBackend, StoreDatabase, StoreWorld } from "./scenario.ts";

export interface OpenStoreWorld extends StoreWorld {
  close(): Promise<void>;
}

export async function openStoreWorld(backend: StoreBackend): Promise<OpenStoreWorld> {
  const database = await backend.open();
  const databases: StoreDatabase[] = [database];
  const stores: Store[] = [];
  const events: BusEvent[] = [];
  return {
    database,
    events,
    async store(runtime: Runtime = nodeRuntime) {
      const store = await database.store();
      stores.push(store);
      await store.connect({ runtime, emit: (event) => void events.push(event) });
      return store;
    },
    async bare() {
      const bare = await backend.open({ bare: true });
      databases.push(bare);
      return bare;
    },
    async commit(store, ...entries) {
      const transaction = await database.begin();
      await store.outbox.append(transaction.handle, entries);
      await transaction.commit();
    },
    lease: (store, owner = "relay", ttlMs = 600_000) =>
      eventually(async () => {
        const lease = await store.outbox.acquire(owner, ttlMs);
        if (lease === undefined) throw new Error("the lease is held");
        return lease;
      }),
    async rows(outbox) {
      const page = await outbox.fetch({ above: 0n, parkedTopics: [], limit: 5_000 });
      return page.rows.map(idOf);
    },
    async close() {
      await Promise.allSettled(stores.map((store) => store.close()));
      await Promise.all(databases.map((each) => each.close()));
    },
  };
}

interface EntryOptions {
  readonly topic?: string;
  readonly key?: string;
  readonly body?: Uint8Array | null;
}

/** An entry that is told from others by its id. */
export function entry(id: string, options: EntryOptions = {}): OutboxEntry {
  const { topic = "t", key, body = new TextEncoder().encode(`"${id}"`) } = options;
  return {
    destination: { topic: { name: topic, partitions: 1, keyed: true } },
    message: {
      attributes: headerMap({ specversion: "1.0", id, source: "test", type: topic }),
      headers: headerMap(),
      key,
      body,
    },
    durability: "replicated",
  };
}

export function idOf({ message }: OutboxEntry): string {
  return message.attributes["id"] ?? "";
}

/** `settled` tells whether `promise` has, without waiting for it. */
export function watch(promise: Promise<unknown>): { readonly settled: boolean } {
  const watched = { settled: false };
  const note = (): void => void (watched.settled = true);
  promise.then(note, note);
  return watched;
}
