import assert from "node:assert/strict";
import { defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus } from "../support/bus.ts";
import { messagingErrorOf } from "../support/errors.ts";

const topic = defineTopic<number>("t");

describe("an option of publish", () => {
  it.each<[string, object]>([
    ["an unknown one", { prority: 1 }],
    ["a timeout of 0", { timeout: 0 }],
    ["a timeout that is no duration", { timeout: "soon" }],
    ["a durability there is not", { durability: "forever" }],
    ["a requireRoute that is no boolean", { requireRoute: "no" }],
    ["a signal that is none", { signal: {} }],
    ["options that are none", [] as object],
  ])("is refused: %s", async (_what, options) => {
    await messagingErrorOf("ERR_CONFIG", () => openBus().bus.publish(topic, 1, options));
  });

  it.each([-1, NaN, Infinity, "10 parsecs", null])("is refused: a delay of %s", async (delay) => {
    await messagingErrorOf("ERR_DELAY", () => openBus().bus.publish(topic, 1, { delay: delay as never }));
  });

  it("is refused when the adapter cannot do it", async () => {
    const weak = memory();
    const adapter = {
      ...weak,
      capabilities: { ...weak.capabilities, durability: ["accepted"] as const, maxDelayMs: 1_000 },
    };
    const { bus } = openBus({ adapter });

    const durability = await messagingErrorOf("ERR_CAPABILITY", () => bus.publish(topic, 1));
    assert.match(
      durability.message,
      /adapter "memory" has no durability "replicated"\. Use one of accepted/u,
    );
    const delay = await messagingErrorOf("ERR_CAPABILITY", () =>
      bus.publish(topic, 1, { durability: "accepted", delay: "1m" }),
    );
    assert.match(delay.message, /delays at most 1000 ms, asked for 60000 ms/u);
  });

  it.each(["order.placed", undefined, null, {}, { name: "t" }])(
    "cannot replace the topic: %s",
    async (odd) => {
      const { bus } = openBus();

      const { message } = await messagingErrorOf("ERR_CONFIG", () => bus.publish(odd as never, 1));
      assert.match(message, /takes a topic made by defineTopic/u);
      await messagingErrorOf("ERR_CONFIG", () => bus.publishAll(odd as never, [1]));
    },
  );
});

describe("outboxOnly", () => {
  it("refuses to publish past the outbox", async () => {
    const { bus } = openBus({ outboxOnly: true });

    await messagingErrorOf("ERR_CONFIG", () => bus.publish(topic, 1));
    await messagingErrorOf("ERR_CONFIG", () => bus.publishAll(topic, [1]));
  });
});
