import assert from "node:assert/strict";
import { constant, defineTopic } from "postrider";
import { describe, it } from "vitest";
import { openBus, until } from "../support/bus.ts";

const always = (): never => {
  throw new Error("always");
};

describe("an ordered consumer", () => {
  const keyed = defineTopic<{ k: string; n: number }>("t", {
    key: ({ k }) => (k === "" ? undefined : k),
    partitions: 2,
  });

  it("retries in place: the key waits, other keys go on, and the order is kept", async () => {
    const world = openBus();
    const got: string[] = [];
    const retry = { maxAttempts: 3, backoff: constant("10s") };
    await world.bus.consume(keyed, { group: "g", order: "key", retry }, ({ k, n }, { attempt }) => {
      got.push(`${k}${n}`);
      if (k === "a" && n === 1 && attempt < 3) throw new Error("not yet");
    });

    await world.bus.publishAll(keyed, [
      { k: "a", n: 1 },
      { k: "a", n: 2 },
      { k: "b", n: 1 },
    ]);
    await until(world.runtime, () => got.includes("b1"));
    assert.deepEqual(got, ["a1", "b1"]);
    await world.runtime.advance(20_000);
    await until(world.runtime, () => got.includes("a2"));

    assert.deepEqual(got, ["a1", "b1", "a1", "a1", "a2"]);
  });

  it("goes on with the key after the last attempt was dead-lettered", async () => {
    const world = openBus();
    const retry = { maxAttempts: 2, backoff: constant("10s") };
    await world.bus.consume(keyed, { group: "g", order: "key", retry }, ({ n }) =>
      n === 1 ? always() : undefined,
    );

    await world.bus.publishAll(keyed, [
      { k: "a", n: 1 },
      { k: "a", n: 2 },
    ]);
    await world.runtime.advance(20_000);

    assert.deepEqual(world.outcomes(), ["retry", "deadLettered", "handled"]);
  });

  it("gives a message without a key to the broker while it waits: nothing needs its place", async () => {
    const world = openBus();
    let deferred = 0;
    world.adapter.faults.before = (operation) => {
      if (operation === "defer") deferred += 1;
      return undefined;
    };
    const retry = { maxAttempts: 2, backoff: constant("10s") };
    await world.bus.consume(keyed, { group: "g", order: "key", retry }, always);

    await world.bus.publish(keyed, { k: "", n: 1 });
    await world.runtime.advance(20_000);

    assert.equal(deferred, 1);
    assert.deepEqual(world.outcomes(), ["retry", "deadLettered"]);
  });
});
