import assert from "node:assert/strict";
import { NonRetryableError, constant, deadLetter, defineTopic, discard } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { type TestBus, openBus, settle, until } from "../support/bus.ts";

interface Step {
  readonly k: string;
  readonly n: number;
}
const keyed = defineTopic<Step>("t", { key: ({ k }) => (k === "" ? undefined : k), partitions: 2 });
const retry = { maxAttempts: 2, backoff: constant("10s") };
const blocking = { group: "g", order: "key", onExhausted: "block", retry } as const;
const a = (n: number): Step => ({ k: "a", n });

const lanesOf = ({ bus }: TestBus): readonly [string | undefined, string | undefined] => {
  const { status, error } = bus.health().checks["lanes t--g"] ?? {};
  return [status, error];
};

/** `handle` decides what becomes of `a1`; everything else is handled. */
function blockedWorld(handle: () => unknown): TestBus & { readonly got: string[] } {
  const world = openBus();
  const got: string[] = [];
  void world.bus.consume(keyed, blocking, ({ k, n }) => {
    got.push(`${k}${n}`);
    return k === "a" && n === 1 ? handle() : undefined;
  });
  return { ...world, got };
}

describe("a message out of attempts that blocks its key", () => {
  it("is tried on by the backoff, while its key waits and other keys go on", async () => {
    let broken = true;
    const world = blockedWorld(() => {
      if (broken) throw new Error("not now");
    });

    await world.bus.publish(keyed, a(1), { id: "one" });
    await world.bus.publish(keyed, a(2));
    await world.runtime.advance(100_000);
    await world.bus.publish(keyed, { k: "b", n: 1 });
    await until(world.runtime, () => world.got.includes("b1"));

    assert.ok(!world.got.includes("a2"));
    assert.deepEqual(world.of("blocked")[0], {
      type: "blocked",
      topic: "t",
      group: "g",
      messageId: "one",
      attempt: 2,
      delayMs: 10_000,
      error: new Error("not now"),
    });
    assert.equal(world.of("blocked").length, 10);
    assert.deepEqual(lanesOf(world), ["down", "keys are blocked by messages out of attempts: one"]);
    assert.deepEqual([world.bus.health().status, world.bus.health().ready], ["degraded", true]);

    broken = false;
    await world.runtime.advance(10_000);

    assert.deepEqual(world.got.slice(-2), ["a1", "a2"]);
    assert.deepEqual(lanesOf(world), ["up", undefined]);
    assert.equal(world.of("deadLettered").length, 0);
  });

  it("goes on waiting when it is too old", async () => {
    const world = openBus();
    const old = { ...blocking, retry: { maxAge: "1m", backoff: constant("40s") } } as const;
    await world.bus.consume(keyed, old, () => {
      throw new Error("always");
    });

    await world.bus.publish(keyed, a(1));
    await world.runtime.advance(200_000);

    assert.deepEqual(world.outcomes(), ["retry"]);
    assert.ok(world.of("blocked").length > 2);
  });

  it.each([
    ["throws an error no retry can heal", () => Promise.reject(new NonRetryableError("no")), "deadLettered"],
    ["returns deadLetter", () => deadLetter("no"), "deadLettered"],
    ["returns discard", () => discard("no"), "discarded"],
  ])("lets its key go on when the handler %s", async (_what, end, outcome) => {
    let calls = 0;
    const world = blockedWorld(() => {
      calls += 1;
      if (calls < 4) throw new Error("not now");
      return end();
    });

    await world.bus.publishAll(keyed, [a(1), a(2)]);
    await world.runtime.advance(60_000);

    assert.deepEqual(world.outcomes(), ["retry", outcome, "handled"]);
  });

  it("is given back at closing, uncounted, and comes first again", async () => {
    const broker = { name: "blocking-close" };
    const first = openBus({ adapter: memory(broker) });
    await first.bus.consume(keyed, blocking, () => {
      throw new Error("not now");
    });
    await first.bus.publishAll(keyed, [a(1), a(2)]);
    await first.runtime.advance(30_000);
    const closed = first.bus.close();
    await settle(first.runtime);
    await closed;

    const second = openBus({ adapter: memory(broker) });
    const got: string[] = [];
    await second.bus.consume(keyed, blocking, ({ k, n }, { attempt }) => got.push(`${k}${n} ${attempt}`));
    await settle(second.runtime);

    assert.deepEqual(got, ["a1 1", "a2 1"]);
  });

  it("without a key is dead-lettered: nothing waits for it", async () => {
    const world = openBus();
    await world.bus.consume(keyed, blocking, () => {
      throw new Error("always");
    });

    await world.bus.publish(keyed, { k: "", n: 1 });
    await world.runtime.advance(20_000);

    assert.deepEqual(world.outcomes(), ["retry", "deadLettered"]);
  });

  it("that seems to kill its process is not given up, but waits first; those behind it are not suspected", async () => {
    const broker = memory();
    const adapter = {
      ...broker,
      subscribe: ((spec, sink) =>
        broker.subscribe(spec, {
          ...sink,
          deliver: (raws) => {
            // The whole of a key at once, as brokers do it.
            const behind = raws.map((raw) => ({ ...raw, redeliveries: 20 }));
            sink.deliver(raws.map((raw) => Object.assign(raw, { redeliveries: 20 })));
            sink.deliver(behind);
          },
        })) as typeof broker.subscribe,
    };
    const world = openBus({ adapter });
    const got: string[] = [];
    // Sooner than leases are extended: the broker knows nothing of the second.
    const options = { ...blocking, retry: { backoff: constant("5s") } };
    await world.bus.consume(keyed, options, ({ k, n }) => got.push(`${k}${n}`));

    await world.bus.publish(keyed, a(1));
    await world.runtime.advance(4_000);
    assert.deepEqual(got, []);
    assert.equal(lanesOf(world)[0], "down");
    await world.runtime.advance(1_000);
    // No time passes: the one behind does not wait once more.
    await until(world.runtime, () => got.length === 2);

    assert.equal(world.of("deadLettered").length, 0);
  });
});
