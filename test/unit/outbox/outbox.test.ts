import assert from "node:assert/strict";
import { defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus } from "../support/bus.ts";
import { errorOf, messagingErrorOf } from "../support/errors.ts";
import { openStore } from "../support/store.ts";

const topic = defineTopic<number>("t");

describe("an outbox", () => {
  it.each<[string, object, string]>([
    ["a route it cannot do without", { requireRoute: false }, "ERR_CONFIG"],
    ["an unknown option", { prority: 1 }, "ERR_CONFIG"],
    ["a delay that is none", { delay: -1 }, "ERR_DELAY"],
  ])("refuses %s before anything is written", async (_what, options, code) => {
    const database = await openStore();
    const { bus } = openBus({ store: database.store });

    await messagingErrorOf(code as "ERR_CONFIG", () =>
      bus.transaction((_tx, outbox) => outbox.publish(topic, 1, options)),
    );
  });

  it("refuses what the relay's adapter cannot do, instead of keeping a row for ever", async () => {
    const database = await openStore();
    const broker = memory();
    const adapter = {
      ...broker,
      capabilities: { ...broker.capabilities, durability: ["accepted"] as const },
    };
    const { bus } = openBus({ adapter, store: database.store });

    await messagingErrorOf("ERR_CAPABILITY", () =>
      bus.transaction((_tx, outbox) => outbox.publish(topic, 1)),
    );
  });

  it("writes nothing when the caller has given up", async () => {
    const database = await openStore();
    const { bus } = openBus({ store: database.store });
    const reason = new Error("enough");

    const error = await errorOf(() =>
      bus.transaction((_tx, outbox) => outbox.publish(topic, 1, { signal: AbortSignal.abort(reason) })),
    );

    assert.equal(error, reason);
    assert.deepEqual(database.rows("SELECT * FROM postrider_outbox"), []);
  });

  it("rejects only the payloads that cannot be sent, and refuses one id for many", async () => {
    const database = await openStore();
    const { bus } = openBus({ store: database.store });

    const results = await bus.transaction((_tx, outbox) => outbox.publishAll(topic, [1, NaN, 3]));
    assert.deepEqual(
      results.map(({ status }) => status),
      ["accepted", "rejected", "accepted"],
    );
    await messagingErrorOf("ERR_CONFIG", () =>
      bus.transaction((_tx, outbox) => outbox.publishAll(topic, [1, 2], { id: "same" } as never)),
    );
  });
});

describe("bus.transaction", () => {
  it("gives back what its function gives, and lets what was published leave", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    world.bus.relay();

    const result = await world.bus.transaction(async (_tx, outbox) => {
      await outbox.publish(topic, 1);
      return 7;
    });
    for (let i = 0; i < 100 && world.of("relayed").length === 0; i++) await world.runtime.advance(50);

    assert.equal(result, 7);
    assert.equal(world.of("published").length, 1);
  });

  it("rejects with its function's own error, and nothing has happened", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    world.bus.relay();
    const reason = new Error("no");

    const error = await errorOf(() =>
      world.bus.transaction(async (_tx, outbox) => {
        await outbox.publish(topic, 1);
        throw reason;
      }),
    );
    await world.runtime.advance(10_000);

    assert.equal(error, reason);
    assert.deepEqual(world.of("published"), []);
  });
});
