/** L: a delayed message comes no earlier than asked for, and a delay that is none is refused. */
import assert from "node:assert/strict";
import { MessagingError } from "../../errors.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, scenario } from "./scenario.ts";

export const delay: readonly Scenario[] = [
  scenario("L1", "a delayed message comes, and not before its delay has passed", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const sent = new Map<number, number>();
    const waited = new Map<number, number>();
    const recorder = await world.consume(bus, topic, { group: "g", holdBelow: 0 }, (ms) => {
      waited.set(ms, performance.now() - (sent.get(ms) ?? 0));
    });

    const delays = [0, 1, 400, 1_700];
    for (const ms of delays) {
      sent.set(ms, performance.now());
      await bus.publish(topic, ms, { delay: ms });
    }
    await recorder.waitFor(delays.length);

    await eventually(() => assert.equal(waited.size, delays.length));
    for (const ms of delays)
      assert.ok((waited.get(ms) ?? 0) >= ms - 5, `${ms} ms came after ${waited.get(ms)} ms`);
    assert.equal(recorder.received.length, delays.length);
    assert.ok(
      recorder.received.every(({ attempt }) => attempt === 1),
      "waiting counted as an attempt",
    );
  }),

  scenario(
    "L2",
    "a delayed message outlives the process that sent it, and the broker's restart",
    async (world) => {
      const topic = world.topic<string>();
      const first = await world.bus();
      await first.declare({ groups: { g: [topic] } });
      // A quorum queue is safe from kill -9 only about a second after it was declared.
      const ready = await world.consume(first, topic, { group: "g" });
      await first.publish(topic, "warm-up", { delay: "1500ms" });
      await ready.waitFor(1);
      const sent = performance.now();
      await first.publish(topic, "one", { delay: "4s" });
      await first.close();
      if (world.capabilities.server) await world.faults.restartBroker();

      const second = await world.bus();
      const after = await world.consume(second, topic, { group: "g" });
      await after.waitFor(1);

      assert.equal(after.received[0]?.payload, "one");
      assert.ok(performance.now() - sent >= 3_995, "it came too early");
    },
  ),

  scenario("L4", "a delay that is none is refused before anything is sent", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const recorder = await world.consume(bus, topic, { group: "g" });

    for (const delay of [-1, NaN, Infinity, "10 parsecs" as "10s", null as unknown as number]) {
      await assert.rejects(
        bus.publish(topic, 1, { delay }),
        (error) => MessagingError.is(error) && error.code === "ERR_DELAY",
      );
    }
    await bus.publish(topic, 2, { delay: 0 });
    await recorder.waitFor(1);

    assert.deepEqual(
      recorder.received.map(({ payload }) => payload),
      [2],
    );
  }),
];
