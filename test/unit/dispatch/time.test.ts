import assert from "node:assert/strict";
import { constant, defineTopic, retryAfter } from "postrider";
import { describe, it } from "vitest";
import { textOf } from "../../../src/inspect.ts";
import { header } from "../../../src/headers.ts";
import { memory } from "postrider/memory";
import { openBus, publishForeign, settle } from "../support/bus.ts";

const topic = defineTopic<{ n: number }>("t");

describe("a timeout", () => {
  it("aborts the attempt's signal, counts as a failure, and ignores what the handler still comes to", async () => {
    const world = openBus();
    const seen: string[] = [];
    const late = Promise.withResolvers<void>();
    const retry = { maxAttempts: 2, backoff: constant(10) };
    await world.bus.consume(
      topic,
      { group: "g", timeout: "1s", retry },
      async (_payload, { signal, attempt }) => {
        signal.addEventListener("abort", () => seen.push(`${attempt} ${(signal.reason as Error).name}`));
        if (attempt === 1) await late.promise;
      },
    );

    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(999);
    assert.deepEqual(seen, []);
    await world.runtime.advance(100);
    late.reject(new Error("too late"));
    await settle(world.runtime);

    assert.deepEqual(seen, ["1 HandlerTimeoutError"]);
    assert.deepEqual(world.outcomes(), ["retry", "handled"]);
    assert.match(textOf(world.of("retry")[0]?.error), /handler did not finish within 1000 ms/u);
  });

  it("leaves no timer when the handler is in time", async () => {
    const world = openBus();
    const consumer = await world.bus.consume(topic, { group: "g", timeout: "1h" }, () => undefined);
    await world.bus.publish(topic, { n: 1 });
    await settle(world.runtime);
    await consumer.close();

    assert.equal(world.runtime.nextTimerMs, undefined);
  });
});

describe("a delayed message", () => {
  it("is handled when it is due, as its first attempt", async () => {
    const world = openBus();
    const at: unknown[] = [];
    await world.bus.consume(topic, { group: "g" }, (_payload, { attempt }) => {
      at.push([world.runtime.monotonic(), attempt]);
    });

    await world.bus.publish(topic, { n: 1 }, { delay: "10m" });
    await world.bus.publish(topic, { n: 2 }, { delay: 300 });
    await world.runtime.advance(3_600_000);

    assert.deepEqual(at, [
      [300, 1],
      [600_000, 1],
    ]);
  });

  it("that somebody forged to be due in a thousand years is handled now", async () => {
    const name = "forged-delay";
    const world = openBus({ adapter: memory({ name }) });
    let calls = 0;
    await world.bus.consume(topic, { group: "g" }, () => void (calls += 1));

    await publishForeign(name, "t", { headers: { [header.notBefore]: "8000000000000000" } });
    await settle(world.runtime);

    assert.equal(calls, 1);
  });

  it("is kept by an adapter that cannot wait that long in one go", async () => {
    const broker = memory();
    const adapter = { ...broker, capabilities: { ...broker.capabilities, maxDelayMs: 3_600_000 } };
    const world = openBus({ adapter });
    const at: number[] = [];
    await world.bus.consume(topic, { group: "g" }, (_payload, { attempt }) => {
      at.push(world.runtime.monotonic());
      return attempt === 1 ? retryAfter("3h") : undefined;
    });
    await world.bus.publish(topic, { n: 1 });

    await world.runtime.advance(4 * 3_600_000);

    assert.deepEqual(at, [0, 3 * 3_600_000]);
  });
});
