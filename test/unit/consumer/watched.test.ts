import assert from "node:assert/strict";
import { defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus, settle, until } from "../support/bus.ts";
import { brokerError, failing } from "../support/faults.ts";

const topic = defineTopic<number>("t");
const group = "g";

/** Not ready, and receiving again, within this. */
const limitMs = 30_000;

describe("a subscription that hangs while all looks well", () => {
  it("is not ready within 30 seconds, says so, and is replaced: everything comes", async () => {
    const world = openBus();
    const got: number[] = [];
    await world.bus.consume(topic, { group }, (n) => void got.push(n));
    await world.bus.publish(topic, 1);
    await settle(world.runtime);
    failing(world.adapter.faults, "subscribe", 1);

    world.adapter.faults.deafen();
    await world.bus.publish(topic, 2);
    assert.equal(world.bus.health().ready, true);
    for (let ms = 0; world.bus.health().ready && ms < limitMs; ms += 100) await world.runtime.advance(100);

    const { ready, checks } = world.bus.health();
    assert.equal(ready, false);
    assert.match(checks["consumer t--g"]?.error ?? "", /gave no sign of life for 20 s/u);
    assert.deepEqual(got, [1]);
    await world.runtime.advance(10_000);

    assert.deepEqual(got, [1, 2]);
    assert.equal(world.bus.health().ready, true);
    assert.deepEqual(
      world.of("warning").map(({ code }) => code),
      ["SILENT t--g"],
    );
  });

  it("gives up what it had handed over: that comes again, and is settled once", async () => {
    const world = openBus();
    const { promise, resolve } = Promise.withResolvers<void>();
    const attempts: number[] = [];
    await world.bus.consume(topic, { group }, (_n, { attempt }) => {
      attempts.push(attempt);
      return attempts.length === 1 ? promise : undefined;
    });
    await world.bus.publish(topic, 1);
    await settle(world.runtime);

    world.adapter.faults.deafen();
    await world.runtime.advance(limitMs);
    resolve();
    await settle(world.runtime);

    assert.equal(attempts.length, 2);
    assert.deepEqual(world.outcomes(), ["staleSettle", "handled"]);
  });

  it("is replaced by one that is paused, when it was", async () => {
    const world = openBus();
    const got: number[] = [];
    const consumer = await world.bus.consume(topic, { group }, (n) => void got.push(n));
    world.adapter.faults.deafen();
    consumer.pause();
    await world.runtime.advance(limitMs);

    await world.bus.publish(topic, 1);
    await settle(world.runtime);
    assert.deepEqual([got, consumer.health().inFlight], [[], 0]);
    consumer.resume();
    await until(world.runtime, () => got.length === 1);
  });

  it("is closed in time, also while it cannot be replaced", async () => {
    const world = openBus();
    const consumer = await world.bus.consume(topic, { group }, () => undefined);
    const tries = failing(world.adapter.faults, "subscribe", Infinity);
    world.adapter.faults.deafen();
    await world.runtime.advance(limitMs);
    assert.ok(tries.calls > 1);
    assert.equal(consumer.health().error?.message, brokerError().message);

    await consumer.close();
    const { calls } = tries;
    await world.runtime.advance(limitMs);

    assert.equal(tries.calls, calls);
  });

  it("is left alone while its adapter knows that it does not receive: that mends it", async () => {
    const broker = memory();
    let subscriptions = 0;
    const adapter = {
      ...broker,
      subscribe: (async (spec, sink) => {
        const subscription = await broker.subscribe(spec, sink);
        subscriptions += 1;
        subscription.health = () => ({ consuming: false, silentMs: 3_600_000 });
        return subscription;
      }) as typeof broker.subscribe,
    };
    const world = openBus({ adapter });
    await world.bus.consume(topic, { group }, () => undefined);

    await world.runtime.advance(limitMs * 2);

    assert.equal(subscriptions, 1);
    assert.deepEqual(world.of("warning"), []);
  });
});
