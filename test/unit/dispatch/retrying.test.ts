import assert from "node:assert/strict";
import { constant, defineTopic, exponential, retryAfter } from "postrider";
import { describe, it } from "vitest";
import { memory } from "postrider/memory";
import { openBus, settle } from "../support/bus.ts";

const topic = defineTopic<{ n: number }>("t");
const always = (): never => {
  throw new Error("always");
};

describe("retrying", () => {
  it("waits by the policy, counts attempts from 1, and dead-letters after the last", async () => {
    const world = openBus();
    const at: number[][] = [];
    const backoff = exponential({ min: "1s", max: "1m", jitter: "none" });
    await world.bus.consume(
      topic,
      { group: "g", retry: { maxAttempts: 4, backoff } },
      (_payload, { attempt }) => {
        at.push([attempt, world.runtime.monotonic()]);
        throw new Error("again");
      },
    );

    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(60_000);

    assert.deepEqual(at, [
      [1, 0],
      [2, 1_000],
      [3, 3_000],
      [4, 7_000],
    ]);
    assert.deepEqual(
      world.of("retry").map(({ attempt, delayMs }) => [attempt, delayMs]),
      [
        [1, 1_000],
        [2, 2_000],
        [3, 4_000],
      ],
    );
    const [letter] = await Array.fromAsync(world.bus.deadLetters(topic, { group: "g" }).list());
    assert.deepEqual([letter?.attempts, letter?.reason], [4, "exhausted"]);
    assert.equal(letter?.firstFailureAt?.getTime(), world.runtime.now() - 60_000);
  });

  it.each([
    [999, "in this process", 0],
    [1_000, "with the broker", 1],
  ])("waits %d ms %s when it holds what is below a second", async (delay, _where, defers) => {
    const world = openBus();
    let deferred = 0;
    world.adapter.faults.before = (operation) => {
      if (operation === "defer") deferred += 1;
      return undefined;
    };
    await world.bus.consume(
      topic,
      { group: "g", retry: { maxAttempts: 2, backoff: constant(delay) } },
      (_payload, { attempt }) => (attempt === 1 ? always() : undefined),
    );

    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(2_000);

    assert.equal(deferred, defers);
    assert.deepEqual(world.outcomes(), ["retry", "handled"]);
  });

  it("lets others run while a message waits in this process", async () => {
    const world = openBus();
    const order: number[] = [];
    await world.bus.consume(
      topic,
      { group: "g", concurrency: 1, retry: { backoff: constant(500) } },
      ({ n }, { attempt }) => {
        order.push(n);
        if (n === 1 && attempt === 1) throw new Error("later");
      },
    );

    await world.bus.publishAll(topic, [{ n: 1 }, { n: 2 }, { n: 3 }]);
    await settle(world.runtime);
    assert.deepEqual(order, [1, 2, 3]);
    await world.runtime.advance(500);

    assert.deepEqual(order, [1, 2, 3, 1]);
  });

  it("takes the handler's own delay, and counts it", async () => {
    const world = openBus();
    const at: number[] = [];
    await world.bus.consume(topic, { group: "g", retry: { maxAttempts: 3, backoff: constant(1) } }, () => {
      at.push(world.runtime.monotonic());
      return retryAfter("5m");
    });

    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(1_000_000);

    assert.deepEqual(at, [0, 300_000, 600_000]);
    const [letter] = await Array.fromAsync(world.bus.deadLetters(topic, { group: "g" }).list());
    assert.deepEqual([letter?.reason, letter?.attempts], ["exhausted", 3]);
    assert.match(letter?.error.message ?? "", /asked to be tried again after 300000 ms/u);
  });

  it("gives up when a retry would come later than maxAge after the first failure", async () => {
    const world = openBus();
    const retry = { maxAttempts: 100, backoff: constant("4s"), maxAge: "10s" } as const;
    await world.bus.consume(topic, { group: "g", retry }, always);

    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(60_000);

    const [letter] = await Array.fromAsync(world.bus.deadLetters(topic, { group: "g" }).list());
    assert.deepEqual([letter?.reason, letter?.attempts], ["expired", 3]);
  });

  it("is not led astray by a wall clock that jumps back", async () => {
    const world = openBus();
    const retry = { maxAttempts: 3, backoff: constant("4s"), maxAge: "1h" } as const;
    await world.bus.consume(topic, { group: "g", retry }, always);
    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(1_000);

    world.runtime.jumpWallClock(-86_400_000);
    await world.runtime.advance(60_000);

    assert.deepEqual(world.outcomes(), ["retry", "retry", "deadLettered"]);
    assert.equal(world.of("deadLettered")[0]?.reason, "exhausted");
  });

  it("takes several rounds for a delay that is longer than the adapter's longest", async () => {
    const broker = memory();
    const adapter = { ...broker, capabilities: { ...broker.capabilities, maxDelayMs: 60_000 } };
    const world = openBus({ adapter });
    const at: number[] = [];
    await world.bus.consume(
      topic,
      { group: "g", retry: { backoff: constant("1s") } },
      (_payload, { attempt }) => {
        at.push(world.runtime.monotonic());
        return attempt === 1 ? retryAfter("150s") : undefined;
      },
    );

    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(300_000);

    assert.deepEqual(at, [0, 150_000]);
    assert.deepEqual(world.outcomes(), ["retry", "handled"]);
  });

  it.each(["backoff", "retryIf"])(
    "goes on, with a warning, when the user's own %s throws",
    async (option) => {
      const world = openBus();
      const broken = { [option]: always, maxAttempts: 3 };
      let attempts = 0;
      await world.bus.consume(topic, { group: "g", retry: broken }, () => {
        attempts += 1;
        throw new Error("again");
      });

      await world.bus.publish(topic, { n: 1 });
      await world.runtime.advance(200_000);

      assert.equal(attempts, 3);
      assert.deepEqual(world.outcomes(), ["retry", "retry", "deadLettered"]);
      assert.match(
        world.of("warning")[0]?.message ?? "",
        /retry\.backoff or retry\.retryIf of group "g" threw: always/u,
      );
    },
  );
});

describe("attempts", () => {
  it("are failures: a message that was only handed over again and again still has all its retries", async () => {
    const world = openBus();
    const attempts: number[] = [];
    const retry = { maxAttempts: 3, backoff: constant("1s") };
    const options = { group: "g", retry, prefetch: 10, concurrency: 1 };
    let release = (): void => undefined;
    const blocked = new Promise<void>((resolve) => (release = resolve));
    await world.bus.consume(topic, options, ({ n }, { attempt }) => {
      if (n === 0) return blocked;
      attempts.push(attempt);
      throw new Error("again");
    });
    await world.bus.publishAll(topic, [{ n: 0 }, { n: 1 }]);
    await settle(world.runtime);

    // The connection is lost again and again while message 1 waits for the blocked one.
    for (let i = 0; i < 5; i++) {
      world.adapter.faults.disconnect();
      await settle(world.runtime);
    }
    release();
    await world.runtime.advance(60_000);

    assert.deepEqual(attempts, [6, 7, 8], "attempts went back, or retries were lost");
    assert.equal(world.of("deadLettered")[0]?.reason, "exhausted");
  });

  it("of a message that is handed over without end, because it kills its process, end in a dead letter", async () => {
    const broker = memory();
    const adapter = {
      ...broker,
      subscribe: ((spec, sink) =>
        broker.subscribe(spec, {
          ...sink,
          // A broker that says the message was handed over before, and nobody ever said what became of it.
          deliver: (raws) => sink.deliver(raws.map((raw) => Object.assign(raw, { redeliveries: 20 }))),
        })) as typeof broker.subscribe,
    };
    const world = openBus({ adapter });
    let calls = 0;
    await world.bus.consume(topic, { group: "g" }, () => void (calls += 1));

    await world.bus.publish(topic, { n: 1 });
    await settle(world.runtime);

    assert.equal(calls, 0);
    const [letter] = await Array.fromAsync(world.bus.deadLetters(topic, { group: "g" }).list());
    assert.equal(letter?.reason, "crash-loop");
    assert.match(letter?.error.message ?? "", /handed over 20 times/u);
  });
});
