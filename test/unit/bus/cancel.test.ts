import assert from "node:assert/strict";
import { defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus } from "../support/bus.ts";
import { messagingErrorOf } from "../support/errors.ts";
import { brokerError, failing } from "../support/faults.ts";

const topic = defineTopic<number>("t");

describe("cancel", () => {
  it("takes a delayed message back as long as it waits, and not a millisecond longer", async () => {
    const world = openBus();
    const got: number[] = [];
    await world.bus.consume(topic, { group: "g" }, (n) => void got.push(n));
    for (const n of [1, 2]) await world.bus.publish(topic, n, { id: `id-${n}`, delay: "10m" });

    await world.runtime.advance(599_999);
    assert.equal(await world.bus.cancel(topic, "id-1"), true);
    await world.runtime.advance(1);
    assert.equal(await world.bus.cancel(topic, "id-2"), false);

    assert.deepEqual(got, [2]);
  });

  it("knows messages by topic", async () => {
    const world = openBus();
    await world.bus.publish(topic, 1, { id: "one", delay: "10m" });

    assert.equal(await world.bus.cancel(defineTopic("other"), "one"), false);
  });

  it.each(["", 7, undefined, "\uD800"])("refuses %j as an id", async (id) => {
    await messagingErrorOf("ERR_ID", () => openBus().bus.cancel(topic, id as string));
  });

  it("is refused, before anything is asked, where the adapter cannot", async () => {
    const broker = memory();
    const adapter = { ...broker, capabilities: { ...broker.capabilities, cancel: false } };
    const world = openBus({ adapter });

    const { message } = await messagingErrorOf("ERR_CAPABILITY", () => world.bus.cancel(topic, "one"));

    assert.match(message, /adapter "memory" cannot cancel a delayed message\. Let the handler/u);
    assert.deepEqual(world.events, []);
  });

  it("rejects when the broker does not answer, and can be called again", async () => {
    const world = openBus();
    await world.bus.publish(topic, 1, { id: "one", delay: "10m" });
    failing(world.adapter.faults, "cancel", 1);

    const { message } = await messagingErrorOf("ERR_BROKER", () => world.bus.cancel(topic, "one"));
    assert.equal(message, brokerError().message);
    assert.equal(await world.bus.cancel(topic, "one"), true);
  });

  it("is refused after close", async () => {
    const world = openBus();
    await world.bus.close();

    await messagingErrorOf("ERR_CLOSED", () => world.bus.cancel(topic, "one"));
  });
});
