import assert from "node:assert/strict";
import { type ConsumeOptions, constant, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { type TestBus, openBus, settle } from "../support/bus.ts";
import { failing } from "../support/faults.ts";

const topic = defineTopic<number>("t");
const keyed = defineTopic<number>("t", { key: (n) => `k${n % 3}`, partitions: 1 });
const group = "g";
const never = (): Promise<never> => new Promise(() => undefined);

/** Consumes with handlers that run until they are told to end. */
async function held(world: TestBus, options: Partial<ConsumeOptions<number, unknown, false>> = {}) {
  const running = new Map<number, () => void>();
  const started: number[] = [];
  const consumer = await world.bus.consume(topic, { group, ...options }, (n) => {
    started.push(n);
    return new Promise<void>((resolve) => running.set(n, resolve));
  });
  const end = (n: number): void => running.get(n)?.();
  return { consumer, started, end, endAll: () => running.forEach((finish) => finish()) };
}

describe("leases", () => {
  it("are extended while a handler runs, also when it takes many times as long", async () => {
    const world = openBus();
    const { started, end } = await held(world, { lease: "3s" });
    await world.bus.publish(topic, 1);
    await world.runtime.advance(600_000);
    end(1);
    await settle(world.runtime);

    assert.deepEqual(started, [1]);
    assert.deepEqual(world.outcomes(), ["handled"]);
  });

  it("are extended while settling fails", async () => {
    const world = openBus();
    failing(world.adapter.faults, "ack", 30);
    let runs = 0;
    await world.bus.consume(topic, { group, lease: "3s" }, () => void (runs += 1));
    await world.bus.publish(topic, 1);
    await world.runtime.advance(3_600_000);

    assert.equal(runs, 1);
    assert.deepEqual(world.outcomes(), ["handled"]);
  });

  it("that the broker does not extend are warned of, and extended the next time", async () => {
    const world = openBus();
    failing(world.adapter.faults, "extend", 1);
    const { end } = await held(world, { lease: "3s" });
    await world.bus.publish(topic, 1);
    await world.runtime.advance(10_000);
    end(1);
    await settle(world.runtime);

    assert.match(
      world.of("warning")[0]?.message ?? "",
      /the broker did not extend the leases of group "g": bad moment/u,
    );
    assert.deepEqual(world.outcomes(), ["handled"]);
  });

  it("that ran out abort the handler, and what it still does is not settled", async () => {
    const world = openBus();
    failing(world.adapter.faults, "extend", Infinity);
    const reasons: unknown[] = [];
    let runs = 0;
    await world.bus.consume(topic, { group, lease: "3s" }, (_n, { signal }) => {
      runs += 1;
      if (runs > 1) return undefined;
      signal.addEventListener("abort", () => reasons.push((signal.reason as Error).message));
      return never();
    });
    await world.bus.publish(topic, 1);
    await world.runtime.advance(10_000);

    assert.deepEqual(reasons, ["the delivery was lost to another consumer"]);
    assert.equal(runs, 2);
    assert.deepEqual(world.outcomes().toSorted(), ["handled", "staleSettle"]);
  });

  it("that the broker calls stale are lost, also when it does not say so by itself", async () => {
    const broker = memory();
    const adapter = {
      ...broker,
      subscribe: (async (spec, sink) => {
        const subscription = await broker.subscribe(spec, sink);
        subscription.extend = async (raws) => raws.map(() => ({ status: "stale" }) as const);
        return subscription;
      }) as typeof broker.subscribe,
    };
    const world = openBus({ adapter });
    let aborted = false;
    await world.bus.consume(topic, { group, lease: "30s" }, (_n, { signal }) => {
      signal.addEventListener("abort", () => (aborted = true));
      return never();
    });
    await world.bus.publish(topic, 1);
    await world.runtime.advance(10_000);

    assert.equal(aborted, true);
  });
});

describe("a delivery that is lost", () => {
  it("while it waits for a place is not handled by this hand-over", async () => {
    const world = openBus();
    const attempts: number[] = [];
    const first = Promise.withResolvers<void>();
    await world.bus.consume(topic, { group, concurrency: 1 }, (n, { attempt }) => {
      if (n === 0) return first.promise;
      attempts.push(attempt);
      return undefined;
    });
    await world.bus.publishAll(topic, [0, 1]);
    await settle(world.runtime);

    world.adapter.faults.disconnect();
    first.resolve();
    await settle(world.runtime);

    assert.deepEqual(attempts, [2], "the lost hand-over was handled too");
  });

  it("while it waits for its retry in this process is not tried again, and frees its lane at once", async () => {
    const world = openBus();
    const attempts: number[] = [];
    const retry = { backoff: constant("10m") };
    await world.bus.consume(keyed, { group, order: "key", retry }, (_n, { attempt }) => {
      attempts.push(attempt);
      if (attempts.length === 1) throw new Error("again");
    });
    await world.bus.publish(keyed, 1);
    await settle(world.runtime);

    world.adapter.faults.disconnect();
    await settle(world.runtime);

    assert.deepEqual(attempts, [1, 2], "the message came again and waited behind its own lost hand-over");
    await world.runtime.advance(1_200_000);
    assert.equal(attempts.length, 2);
  });

  it("gives its handler's success no effect, but the message comes again", async () => {
    const world = openBus();
    const finish = Promise.withResolvers<void>();
    let runs = 0;
    await world.bus.consume(topic, { group }, () => {
      runs += 1;
      return runs === 1 ? finish.promise : undefined;
    });
    await world.bus.publish(topic, 1);
    await settle(world.runtime);
    world.adapter.faults.disconnect();
    finish.resolve();
    await settle(world.runtime);

    assert.equal(runs, 2);
    assert.equal(world.of("retry").length, 0, "losing a delivery was counted as a failure");
  });
});
