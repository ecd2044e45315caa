import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import { errorOf } from "./support/errors.ts";

const runtimes = { node: nodeRuntime, fake: createFakeRuntime() };

describe.each(Object.entries(runtimes))("sleep of the %s runtime", (_name, runtime) => {
  it("rejects at once with the reason when the signal has aborted already", async () => {
    assert.equal(await errorOf(() => runtime.sleep(60_000, AbortSignal.abort("before"))), "before");
  });

  it("rejects with the reason when the signal aborts meanwhile, and leaves no listener", async () => {
    const abort = new AbortController();
    const slept = errorOf(() => runtime.sleep(60_000, abort.signal));

    abort.abort("meanwhile");

    assert.equal(await slept, "meanwhile");
    assert.equal(getEventListeners(abort.signal, "abort").length, 0);
  });
});

describe("the node runtime", () => {
  it("does not fire a timer at once that is longer than Node's own can be", async () => {
    let fired = false;
    const cancel = nodeRuntime.setTimer(2 ** 31 + 1_000, () => (fired = true));
    await nodeRuntime.sleep(5);

    cancel();
    cancel();

    assert.equal(fired, false);
  });

  it("fires what is due, also when that was before now", async () => {
    await new Promise<void>((resolve) => nodeRuntime.setTimer(-5, resolve));
    await nodeRuntime.sleep(0);
  });

  it("gives random numbers and defers calls", async () => {
    const values = Array.from({ length: 100 }, () => nodeRuntime.random("test"));
    assert.ok(values.every((value) => value >= 0 && value < 1));
    const order: string[] = [];
    await new Promise<void>((resolve) => {
      nodeRuntime.defer(() => {
        order.push("deferred");
        resolve();
      });
      order.push("now");
    });
    assert.deepEqual(order, ["now", "deferred"]);
  });
});

describe("the fake runtime", () => {
  it("fires timers in order, each at its own time, and those they set", async () => {
    const runtime = createFakeRuntime();
    const fired: [string, number][] = [];
    const note = (name: string) => (): void => void fired.push([name, runtime.monotonic()]);
    runtime.setTimer(300, note("c"));
    runtime.setTimer(100, () => {
      note("a")();
      runtime.setTimer(100, note("b"));
    });
    const cancel = runtime.setTimer(150, note("cancelled"));
    cancel();

    await runtime.advance(299);
    assert.deepEqual(fired, [
      ["a", 100],
      ["b", 200],
    ]);
    assert.equal(runtime.nextTimerMs, 1);
    await runtime.advance(1);

    assert.deepEqual(fired.at(-1), ["c", 300]);
    assert.equal(runtime.nextTimerMs, undefined);
  });

  it("moves both clocks together, and the wall clock alone when it is told to", async () => {
    const runtime = createFakeRuntime({ now: 1_000 });
    await runtime.advance(500.5);
    assert.deepEqual([runtime.now(), runtime.monotonic()], [1_500, 500.5]);

    runtime.jumpWallClock(-3_600_000);

    assert.deepEqual([runtime.now(), runtime.monotonic()], [-3_598_500, 500.5]);
  });

  it("repeats itself from its seed, stream by stream", () => {
    const draw = (seed: number): number[] => {
      const runtime = createFakeRuntime({ seed });
      return [runtime.random("a"), runtime.random("b"), runtime.random("a")];
    };
    const lone = createFakeRuntime({ seed: 7 });

    assert.deepEqual(draw(7), draw(7));
    assert.notDeepEqual(draw(7), draw(8));
    assert.deepEqual(
      [lone.random("a"), lone.random("a")],
      [draw(7)[0], draw(7)[2]],
      "one stream moves another",
    );
  });
});
