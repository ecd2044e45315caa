import assert from "node:assert/strict";
import { defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus, settle } from "../support/bus.ts";
import { openStore, storeDown } from "../support/store.ts";

const topic = defineTopic<number>("t");
const group = "g";

describe("health", () => {
  it("is down and not ready before anything is connected, and up after", async () => {
    const { bus } = openBus();
    assert.deepEqual(bus.health(), {
      status: "down",
      live: true,
      ready: false,
      checks: { adapter: { status: "down", critical: true } },
    });

    await bus.connect();

    assert.deepEqual(bus.health(), {
      status: "up",
      live: true,
      ready: true,
      checks: { adapter: { status: "up", critical: true } },
    });
  });

  it("names each consumer, and one that is down is not hidden by another of its group", async () => {
    const broker = memory();
    let subscriptions = 0;
    const adapter = {
      ...broker,
      subscribe: (async (spec, sink) => {
        const subscription = await broker.subscribe(spec, sink);
        subscriptions += 1;
        if (subscriptions === 1) subscription.health = () => ({ consuming: false, silentMs: 0 });
        return subscription;
      }) as typeof broker.subscribe,
    };
    const { bus } = openBus({ adapter });
    await bus.consume(topic, { group }, () => undefined);
    await bus.consume(topic, { group }, () => undefined);
    await bus.consume(topic, { group: "other" }, () => undefined);

    const { status, ready, checks } = bus.health();

    assert.deepEqual([status, ready], ["down", false]);
    assert.deepEqual(
      Object.entries(checks).map(([name, one]) => [name, one.status]),
      [
        ["adapter", "up"],
        ["consumer t--g", "down"],
        ["consumer t--other", "up"],
      ],
    );
  });

  it("is not ready while closing, and not live after", async () => {
    const world = openBus();
    await world.bus.consume(topic, { group }, () => new Promise(() => undefined));
    await world.bus.publish(topic, 1);
    await settle(world.runtime);
    const closed = world.bus.close({ timeout: "1s" });

    const closing = world.bus.health();
    assert.deepEqual([closing.live, closing.ready], [true, false]);
    await world.runtime.advance(2_000);
    await closed;

    const after = world.bus.health();
    assert.deepEqual([after.status, after.live, after.ready], ["down", false, false]);
  });

  it("is degraded, but ready, while the relay fails, and up again when it works", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    await world.bus.connect();
    database.faults.before = (operation) => (operation === "outbox.fetch" ? storeDown() : undefined);
    world.bus.relay();
    for (let i = 0; i < 50 && world.of("relayFailed").length === 0; i++) await world.runtime.advance(100);

    const failing = world.bus.health();
    assert.deepEqual([failing.status, failing.ready], ["degraded", true]);
    assert.equal(failing.checks["relay"]?.error, "the database is down");
    database.faults.before = undefined;
    for (let i = 0; i < 50 && world.bus.health().status !== "up"; i++) await world.runtime.advance(1_000);

    assert.equal(world.bus.health().status, "up");
  });
});
