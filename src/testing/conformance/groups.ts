/** G: consumers of one group share the messages, each group gets them all. */
import assert from "node:assert/strict";
import { eventually } from "../eventually.ts";
import { type Scenario, scenario } from "./scenario.ts";

export const groups: readonly Scenario[] = [
  scenario("G1", "two consumers of one group handle all messages, none of them twice", async (world) => {
    const [first, second] = [await world.bus(), await world.bus()];
    const topic = world.topic<number>({ partitions: 4 });
    const a = await world.consume(first, topic, { group: "g", prefetch: 10, concurrency: 10 });
    const b = await world.consume(second, topic, { group: "g", prefetch: 10, concurrency: 10 });

    await first.publishAll(topic, [...Array(1_000).keys()]);
    await eventually(() => assert.equal(new Set([...a.ids(), ...b.ids()]).size, 1_000), 30_000);

    const all = [...a.received, ...b.received].map(({ payload }) => payload);
    assert.equal(new Set(all).size, 1_000);
    assert.equal(all.length, 1_000, "a message was handled twice without any fault");
  }),

  scenario("G2", "each of two groups gets every message", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const a = await world.consume(bus, topic, { group: "a" });
    const b = await world.consume(bus, topic, { group: "b" });

    await bus.publishAll(topic, [...Array(1_000).keys()]);
    await Promise.all([a.waitFor(1_000), b.waitFor(1_000)]);

    for (const recorder of [a, b]) {
      assert.equal(new Set(recorder.received.map(({ payload }) => payload)).size, 1_000);
    }
  }),
];
