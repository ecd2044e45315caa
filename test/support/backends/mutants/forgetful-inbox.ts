/** An inbox that has never seen any message. */
import type { CreateBackend } from "postrider/testing";
import { mutate } from "./mutate.ts";

export const createBackend: CreateBackend = mutate({
  store: (store) => ({ ...store, inbox: { ...store.inbox, record: () => Promise.resolve("fresh") } }),
});
