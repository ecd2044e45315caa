/** An outbox whose rows are gone once they were read. */
import type { CreateBackend } from "postrider/testing";
import { mutate } from "./mutate.ts";

export const createBackend: CreateBackend = mutate({
  store(store) {
    const { outbox } = store;
    let epoch = 0n;
    return {
      ...store,
      outbox: {
        ...outbox,
        async acquire(owner, ttlMs) {
          const lease = await outbox.acquire(owner, ttlMs);
          epoch = lease?.epoch ?? epoch;
          return lease;
        },
        async fetch(spec) {
          const page = await outbox.fetch(spec);
          const seqs = page.rows.map(({ seq }) => seq);
          await outbox.remove(seqs, epoch);
          return page;
        },
      },
    };
  },
});
