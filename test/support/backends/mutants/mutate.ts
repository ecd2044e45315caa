/** The embedded default with one mistake, in the process of the scenarios and in their child processes alike. */
import type { Backend, CreateBackend } from "postrider/testing";
import type { Adapter, Store } from "../../../../src/spi.ts";
import { createBackend } from "../sqlite.ts";

export interface Mistake {
  readonly adapter?: (adapter: Adapter) => Adapter;
  readonly store?: (store: Store) => Store;
}

export function mutate({ adapter = same, store = same }: Mistake): CreateBackend {
  return async (address): Promise<Backend> => {
    const backend = await createBackend(address);
    return {
      ...backend,
      adapter: () => adapter(backend.adapter()),
      database: { ...backend.database, store: async () => store(await backend.database.store()) },
    };
  };
}

function same<T>(value: T): T {
  return value;
}
