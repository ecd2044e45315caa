import assert from "node:assert/strict";
import * as fc from "fast-check";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { jittered, retryLoop } from "../../../src/retry/loop.ts";
import { errorOf } from "../support/errors.ts";

const noWait = (): Promise<void> => Promise.resolve();

/** A `run` that throws the given values one after another, then resolves with the attempt's number. */
function failing(...thrown: readonly unknown[]): (attempt: number) => Promise<number> {
  return (attempt) =>
    attempt > thrown.length ? Promise.resolve(attempt) : Promise.reject(thrown[attempt - 1]);
}

describe("retryLoop", () => {
  it("resolves with the first success and numbers attempts from 1", async () => {
    const seen: unknown[][] = [];

    const result = await retryLoop(noWait, failing("a", "b"), (...given) => (seen.push(given), 0));

    assert.equal(result, 3);
    assert.deepEqual(seen, [
      ["a", 1],
      ["b", 2],
    ]);
  });

  it.each([
    ["a TypeError, which p-retry would not retry", new TypeError("t")],
    ["null, which p-retry would not take", null],
    ["undefined", undefined],
    ["a symbol", Symbol("s")],
    ["an object that cannot be turned into text", Object.create(null) as unknown],
  ])("retries after %s", async (_what, thrown) => {
    assert.equal(await retryLoop(noWait, failing(thrown, thrown), () => 0), 3);
  });

  it("rejects with the last error exactly as it was thrown when told to give up", async () => {
    for (const last of [null, undefined, "text", new TypeError("t"), Object.freeze({ a: 1 })]) {
      const error = await errorOf(() =>
        retryLoop(noWait, failing("first", last, "never"), (_error, n) => (n < 2 ? 0 : undefined)),
      );
      assert.equal(error, last);
    }
  });

  it("treats a throw that is not a rejection like one", async () => {
    let calls = 0;
    const run = (): Promise<string> => {
      calls += 1;
      if (calls === 1) throw new TypeError("synchronous");
      return Promise.resolve("done");
    };

    assert.equal(await retryLoop(noWait, run, () => 0), "done");
  });

  it("waits as long as it is told before each further attempt", async () => {
    const runtime = createFakeRuntime();
    const at: number[] = [];
    const run = (attempt: number): Promise<void> => {
      at.push(runtime.monotonic());
      return attempt < 4 ? Promise.reject(new Error("again")) : Promise.resolve();
    };

    const done = retryLoop(
      (ms) => runtime.sleep(ms),
      run,
      (_error, n) => n * 1_000,
    );
    await runtime.advance(10_000);
    await done;

    assert.deepEqual(at, [0, 1_000, 3_000, 6_000]);
  });

  it("ends at once with the reason when its wait is aborted, and leaves no timer", async () => {
    const runtime = createFakeRuntime();
    const abort = new AbortController();
    let calls = 0;
    const failed = errorOf(() =>
      retryLoop(
        (ms) => runtime.sleep(ms, abort.signal),
        () => ((calls += 1), Promise.reject(new Error("again"))),
        () => 60_000,
      ),
    );
    await runtime.advance(1_000);

    abort.abort("enough");

    assert.equal(await failed, "enough");
    assert.equal(calls, 1);
    assert.equal(runtime.nextTimerMs, undefined);
  });

  it("makes no attempt more when it was aborted while an attempt failed", async () => {
    const runtime = createFakeRuntime();
    const abort = new AbortController();
    let calls = 0;
    const run = (): Promise<never> => {
      calls += 1;
      abort.abort("enough");
      return Promise.reject(new Error("failed"));
    };

    assert.equal(
      await errorOf(() =>
        retryLoop(
          (ms) => runtime.sleep(ms, abort.signal),
          run,
          () => 0,
        ),
      ),
      "enough",
    );
    assert.equal(calls, 1);
  });

  it("keeps a success that came after the abort", async () => {
    const runtime = createFakeRuntime();
    const abort = new AbortController();
    const run = (): Promise<string> => {
      abort.abort("too late");
      return Promise.resolve("done");
    };

    assert.equal(
      await retryLoop(
        (ms) => runtime.sleep(ms, abort.signal),
        run,
        () => 0,
      ),
      "done",
    );
  });

  it("goes on for thousands of attempts without a timer of its own", async () => {
    const thrown = Array.from({ length: 3_000 }, () => new Error("again"));

    assert.equal(await retryLoop(noWait, failing(...thrown), () => 0), 3_001);
  });
});

describe("jittered", () => {
  it("stays between half of min and max, and its upper bound doubles with each attempt", () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 10_000 }), (seed, attempt) => {
        const delay = jittered(createFakeRuntime({ seed }), "test", 100, 5_000)(attempt);
        const cap = Math.min(5_000, 100 * 2 ** Math.min(attempt - 1, 30));
        assert.ok(Number.isInteger(delay) && delay >= 50 && delay <= cap, `${delay} of at most ${cap}`);
      }),
    );
  });

  it("differs from one process to the next", () => {
    const delays = Array.from({ length: 20 }, (_, seed) =>
      jittered(createFakeRuntime({ seed }), "t", 100, 5_000)(6),
    );

    assert.ok(new Set(delays).size > 10);
  });
});
