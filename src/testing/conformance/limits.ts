/** Z: nothing in a message can reach beyond it. */
import assert from "node:assert/strict";
import { type Scenario, scenario } from "./scenario.ts";

export const limits: readonly Scenario[] = [
  scenario("Z1", "names that mean something to JavaScript are only names in a message", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<unknown>({ key: () => "constructor" });
    const recorder = await world.consume(bus, topic, { group: "constructor" });
    const payload = { constructor: 1, toString: "x", hasOwnProperty: null, valueOf: { toJSON: 1 } };
    const headers = { constructor: "a", toString: "b", hasOwnProperty: "c", valueOf: "d" };

    await bus.publish(topic, payload, { headers });
    await recorder.waitFor(1);

    const { message } = recorder.received[0]?.context ?? assert.fail("nothing came");
    assert.deepEqual(message.payload, payload);
    assert.deepEqual({ ...message.headers }, headers);
    assert.equal(message.key, "constructor");
    assert.equal(({} as { admin?: unknown }).admin, undefined);
  }),
];
