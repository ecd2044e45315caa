import assert from "node:assert/strict";
import { PublishError, defineTopic } from "postrider";
import { describe, it } from "vitest";
import { openBus, settle } from "../support/bus.ts";
import { errorOf, messagingErrorOf } from "../support/errors.ts";
import { failing, holding } from "../support/faults.ts";

const topic = defineTopic<number>("t");

describe("publishing while closing", () => {
  it("gets its confirmation when that comes before the drain is over", async () => {
    const world = openBus();
    failing(world.adapter.faults, "publish", 2);
    const sends = [1, 2, 3].map((n) => world.bus.publish(topic, n));
    await settle(world.runtime);

    const closed = world.bus.close();
    await world.runtime.advance(5_000);

    assert.equal((await Promise.all(sends)).length, 3);
    await closed;
  });

  it("is told what is known when the drain is over, and close resolves", async () => {
    const world = openBus();
    const held = holding(world.adapter.faults, "publish");
    const handedOver = errorOf(() => world.bus.publish(topic, 1));
    await settle(world.runtime);
    const waiting = errorOf(() => world.bus.publish(topic, 2));
    await settle(world.runtime);

    const closed = world.bus.close({ timeout: "1s" });
    await world.runtime.advance(1_000);
    held.letGo();
    await closed;

    const [first, second] = [(await handedOver) as PublishError, (await waiting) as PublishError];
    assert.deepEqual([first.code, first.accepted], ["ERR_CLOSED", "unknown"]);
    assert.deepEqual([second.code, second.accepted], ["ERR_CLOSED", "no"]);
  });

  it("does not wait for an asynchronous schema beyond the drain", async () => {
    const stuck = defineTopic("t", {
      schema: {
        "~standard": {
          version: 1 as const,
          vendor: "test",
          validate: () => new Promise<never>(() => undefined),
        },
      },
    });
    const world = openBus();
    void world.bus.publish(stuck, 1);

    const closed = world.bus.close({ timeout: "1s" });
    await world.runtime.advance(1_000);
    await closed;
  });

  it("is refused from the first call of close on, with the state", async () => {
    const world = openBus();
    const held = holding(world.adapter.faults, "publish");
    const pending = world.bus.publish(topic, 1);
    await settle(world.runtime);
    const closed = world.bus.close();

    await messagingErrorOf("ERR_DRAINING", () => world.bus.publish(topic, 2));
    await messagingErrorOf("ERR_DRAINING", () => world.bus.publishAll(topic, [2]));
    held.letGo();
    await pending;
    await closed;
    await messagingErrorOf("ERR_CLOSED", () => world.bus.publish(topic, 2));
  });
});
