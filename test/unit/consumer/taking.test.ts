import assert from "node:assert/strict";
import { type Consumer, constant } from "postrider";
import { memory } from "postrider/memory";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { openBus, settle, until } from "../support/bus.ts";
import { group, held, keyed, leftOver, never, numbers, topic } from "../support/consuming.ts";
import { messagingErrorOf } from "../support/errors.ts";
import { failing, fatalError, holding } from "../support/faults.ts";

describe("prefetch", () => {
  it("is what is taken from the broker and not yet settled, and never more", async () => {
    const world = openBus();
    const { consumer, started, end } = await held(world, { concurrency: 2, prefetch: 5 });
    await world.bus.publishAll(topic, numbers(20));
    await settle(world.runtime);

    assert.deepEqual(started, [0, 1]);
    assert.equal(consumer.health().inFlight, 5);
    end(0);
    await settle(world.runtime);
    assert.deepEqual(started, [0, 1, 2]);
    assert.equal(consumer.health().inFlight, 5);
  });

  it("is filled to the brim when handlers are slow, whatever the order", async () => {
    const world = openBus();
    const consumer = await world.bus.consume(
      keyed,
      { group, order: "key", prefetch: 3, concurrency: 8 },
      never,
    );

    await world.bus.publishAll(keyed, numbers(20));
    await settle(world.runtime);

    assert.equal(consumer.health().inFlight, 3);
  });
});

describe("concurrency", () => {
  it("is the most handlers that run at once", async () => {
    const world = openBus();
    let running = 0;
    let most = 0;
    await world.bus.consume(topic, { group, concurrency: 3, prefetch: 50 }, async () => {
      running += 1;
      most = Math.max(most, running);
      await Promise.resolve();
      running -= 1;
    });

    await world.bus.publishAll(topic, numbers(50));
    await until(world.runtime, () => world.of("handled").length === 50);

    assert.equal(most, 3);
  });
});

describe("pause", () => {
  it("starts no handler until resume, not even of what was taken before, lets what runs go on, and loses nothing", async () => {
    const world = openBus();
    const { consumer, started, end, endAll } = await held(world, { concurrency: 1, prefetch: 5 });
    await world.bus.publishAll(topic, numbers(10));
    await settle(world.runtime);
    assert.deepEqual(started, [0]);

    consumer.pause();
    consumer.pause();
    end(0);
    await world.runtime.advance(60_000);
    assert.deepEqual(started, [0]);
    assert.equal(world.of("handled").length, 1);

    consumer.resume();
    await until(world.runtime, () => {
      endAll();
      return world.of("handled").length === 10;
    });
    assert.deepEqual(new Set(started), new Set(numbers(10)));
  });

  it("keeps what was taken: its leases are extended", async () => {
    const world = openBus();
    const { consumer, started } = await held(world, { concurrency: 1, prefetch: 3, lease: "3s" });
    consumer.pause();
    await world.bus.publishAll(topic, numbers(3));
    await world.runtime.advance(60_000);
    consumer.resume();
    await settle(world.runtime);

    assert.equal(started.length, 1);
    assert.deepEqual(world.of("staleSettle"), []);
  });

  it("lets a message that waits for its retry have its attempt: it runs already", async () => {
    const world = openBus();
    const attempts: number[] = [];
    const consumer = await world.bus.consume(
      topic,
      { group, concurrency: 1, retry: { backoff: constant(500) } },
      (_n, { attempt }) => {
        attempts.push(attempt);
        if (attempt === 1) throw new Error("again");
      },
    );
    await world.bus.publish(topic, 1);
    await settle(world.runtime);

    consumer.pause();
    await world.bus.publish(topic, 2);
    await world.runtime.advance(1_000);

    assert.deepEqual(attempts, [1, 2]);
  });

  it("does not stand in the way of closing: what was taken and not begun is given back", async () => {
    const name = "pause-close";
    const world = openBus({ adapter: memory({ name }) });
    const consumer = await world.bus.consume(topic, { group }, () => undefined);
    await world.bus.publishAll(topic, [1, 2]);
    consumer.pause();
    await settle(world.runtime);

    await consumer.close();

    assert.deepEqual(await leftOver(name), { payloads: [1, 2], attempts: [1, 1] });
  });
});

describe("subscribing", () => {
  it("that fails rejects and leaves nothing behind", async () => {
    const world = openBus();
    failing(world.adapter.faults, "subscribe", 1, fatalError);

    await messagingErrorOf("ERR_AUTH", () => world.bus.consume(topic, { group }, () => undefined));

    assert.equal(world.runtime.nextTimerMs, undefined);
    assert.deepEqual(Object.keys(world.bus.health().checks), ["adapter"]);
    const consumer: Consumer = await world.bus.consume(topic, { group }, () => undefined);
    assert.equal(consumer.health().consuming, true);
  });

  it("while the bus closes rejects, and what was taken meanwhile is handled or given back", async () => {
    const name = "subscribe-close";
    const world = openBus({ adapter: memory({ name }) });
    await world.bus.publish(topic, 1);
    const held = holding(world.adapter.faults, "subscribe", "after");
    const failed = messagingErrorOf("ERR_DRAINING", () =>
      world.bus.consume(topic, { group }, () => undefined),
    );
    await settle(world.runtime);

    const closed = world.bus.close();
    await settle(world.runtime);
    held.letGo();
    await settle(world.runtime);
    await failed;
    await closed;

    assert.equal(world.runtime.nextTimerMs, undefined);
    const { payloads } = await leftOver(name);
    assert.equal(world.of("handled").length + payloads.length, 1, "lost, or handled and left");
  });

  it("after the bus began to close is refused", async () => {
    const { bus } = openBus();
    await bus.close();

    await messagingErrorOf("ERR_CLOSED", () => bus.consume(topic, { group }, () => undefined));
  });

  it("that comes after closing, because connecting took long, does not happen", async () => {
    const world = openBus();
    const held = holding(world.adapter.faults, "declare");
    const failed = messagingErrorOf("ERR_DRAINING", () =>
      world.bus.consume(topic, { group }, () => undefined),
    );
    await settle(world.runtime);
    const closed = world.bus.close();
    await settle(world.runtime);
    held.letGo();
    await failed;
    await closed;

    assert.equal(world.runtime.nextTimerMs, undefined);
  });
});

describe("the last line of defence", () => {
  it("puts a message off whose handling ended in a way that should not exist, and goes on with the others", async () => {
    const fake = createFakeRuntime();
    let faults = 0;
    const random = (stream: string): number => {
      if (stream === "jitter" && (faults += 1) === 1) throw new RangeError("bug");
      return fake.random(stream);
    };
    const world = openBus({ runtime: Object.defineProperty(fake, "random", { value: random }) });
    const got: string[] = [];
    await world.bus.consume(topic, { group, concurrency: 1 }, (n, { attempt }) => {
      got.push(`${n}:${attempt}`);
      if (n === 1 && got.length === 1) throw new Error("needs the policy");
    });

    await world.bus.publishAll(topic, [1, 2]);
    await settle(world.runtime);
    assert.deepEqual(got, ["1:1", "2:1"]);
    assert.match(world.of("settleFailed")[0]?.error.message ?? "", /a delivery ended unexpectedly: bug/u);
    await world.runtime.advance(30_000);

    assert.deepEqual(got, ["1:1", "2:1", "1:1"]);
    assert.equal(world.of("handled").length, 2);
  });
});
