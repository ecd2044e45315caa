import type { DatabaseSync } from "node:sqlite";
import { type Publisher, createBus } from "postrider";
import { describe, expectTypeOf, it } from "vitest";

const bus = createBus();

describe("bus.once", () => {
  it("gives the function the store's transaction, or a signal by lease, and has its type", () => {
    const inTransaction = bus.once("k", async (tx, outbox) => {
      expectTypeOf(tx).toEqualTypeOf<DatabaseSync>();
      expectTypeOf(outbox).toEqualTypeOf<Publisher>();
      return { orderId: "1" };
    });
    const byLease = bus.once(
      "k",
      (signal) => {
        expectTypeOf(signal).toEqualTypeOf<AbortSignal>();
        return 1;
      },
      { by: "lease", lease: "1m", scope: "charge" },
    );

    expectTypeOf(inTransaction).toEqualTypeOf<Promise<{ orderId: string }>>();
    expectTypeOf(byLease).toEqualTypeOf<Promise<number>>();
  });

  it("takes a lease only by lease", () => {
    // @ts-expect-error -- it would have no effect
    void bus.once("k", async () => 1, { lease: "30s" });
  });
});
