import assert from "node:assert/strict";
import { constant } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus, settle } from "../support/bus.ts";
import { group, held, keyed, leftOver, never, numbers, topic } from "../support/consuming.ts";
import { messagingErrorOf } from "../support/errors.ts";
import { holding } from "../support/faults.ts";

describe("closing a consumer", () => {
  it("lets what runs finish and settles it, gives back what has not begun, and takes nothing new", async () => {
    const name = "close-drains";
    const world = openBus({ adapter: memory({ name }) });
    const { consumer, started, endAll } = await held(world, { concurrency: 2, prefetch: 4 });
    await world.bus.publishAll(topic, numbers(6));
    await settle(world.runtime);

    const closed = consumer.close();
    await world.runtime.advance(1_000);
    assert.deepEqual(started, [0, 1]);
    endAll();
    await closed;

    assert.equal(world.of("handled").length, 2);
    assert.deepEqual(await leftOver(name), { payloads: [2, 3, 4, 5], attempts: [1, 1, 1, 1] });
  });

  it("aborts what does not finish in time and gives it back without counting", async () => {
    const name = "close-aborts";
    const world = openBus({ adapter: memory({ name }) });
    const reasons: unknown[] = [];
    const consumer = await world.bus.consume(topic, { group }, (_n, { signal }) => {
      signal.addEventListener("abort", () => reasons.push(signal.reason));
      return never();
    });
    await world.bus.publish(topic, 1);
    await settle(world.runtime);

    const closed = consumer.close({ timeout: "5s" });
    await world.runtime.advance(4_999);
    assert.equal(reasons.length, 0);
    await world.runtime.advance(1);
    await closed;

    assert.equal((reasons[0] as { code?: string }).code, "ERR_DRAINING");
    assert.deepEqual(world.outcomes(), []);
    assert.equal(world.runtime.nextTimerMs, undefined);
    assert.deepEqual(await leftOver(name), { payloads: [1], attempts: [1] });
  });

  it("does not wait for ever for a handler that ignores its signal, nor for a broker that does not answer", async () => {
    const world = openBus();
    const consumer = await world.bus.consume(topic, { group }, never);
    await world.bus.publish(topic, 1);
    await settle(world.runtime);
    holding(world.adapter.faults, "release");

    const closed = consumer.close({ timeout: "1s" });
    await world.runtime.advance(2_000);

    await closed;
    assert.equal(world.runtime.nextTimerMs, undefined);
  });

  it("cuts a wait for a retry short: the broker waits instead, and the attempts are kept", async () => {
    const name = "close-retry";
    const world = openBus({ adapter: memory({ name }) });
    const consumer = await world.bus.consume(topic, { group, retry: { backoff: constant(900) } }, () => {
      throw new Error("again");
    });
    await world.bus.publish(topic, 1);
    await settle(world.runtime);

    await consumer.close();

    assert.equal(world.runtime.nextTimerMs === undefined || world.runtime.nextTimerMs > 0, true);
    const other = openBus({ adapter: memory({ name }) });
    const attempts: number[] = [];
    await other.bus.consume(topic, { group }, (_n, { attempt }) => void attempts.push(attempt));
    await settle(other.runtime);
    assert.deepEqual(attempts, [], "the retry came before its delay");
    await other.runtime.advance(1_000);
    assert.deepEqual(attempts, [2]);
  });

  it("gives an ordered message back at once instead: later ones of its key must not pass it", async () => {
    const name = "close-ordered";
    const world = openBus({ adapter: memory({ name }) });
    const retry = { backoff: constant("10m") };
    const consumer = await world.bus.consume(keyed, { group, order: "key", retry }, () => {
      throw new Error("again");
    });
    await world.bus.publishAll(keyed, [1, 4]);
    await settle(world.runtime);

    await consumer.close();

    const other = openBus({ adapter: memory({ name }) });
    const got: number[] = [];
    await other.bus.consume(keyed, { group, order: "key" }, (n) => void got.push(n));
    await other.runtime.advance(100);
    assert.deepEqual(got, [1, 4]);
  });

  it("twice, and at once, is closing once", async () => {
    const world = openBus();
    const consumer = await world.bus.consume(topic, { group }, () => undefined);

    await Promise.all([consumer.close(), consumer.close(), consumer[Symbol.asyncDispose]()]);
    await consumer.close();
    await world.bus.close();
  });

  it("is refused with options that are none", async () => {
    const { bus } = openBus();
    const consumer = await bus.consume(topic, { group }, () => undefined);

    await messagingErrorOf("ERR_CONFIG", () => consumer.close({ timeout: "soon" as "1s" }));
    await messagingErrorOf("ERR_CONFIG", () => consumer.close({ timout: 1 } as never));
    await messagingErrorOf("ERR_CONFIG", () => bus.close({ grace: 1 } as never));
  });

  it("fifty times leaves no timer, no delivery and no listener behind", async () => {
    const world = openBus();
    await world.bus.connect();
    for (let i = 0; i < 50; i++) {
      const consumer = await world.bus.consume(topic, { group, lease: "3s", timeout: "1h" }, () => undefined);
      await world.bus.publish(topic, i);
      await settle(world.runtime);
      const closed = consumer.close();
      await world.runtime.advance(10_000);
      await closed;
    }

    assert.equal(world.of("handled").length, 50);
    assert.equal(world.runtime.nextTimerMs, undefined);
    assert.deepEqual(Object.keys(world.bus.health().checks), ["adapter"]);
  });
});
