import assert from "node:assert/strict";
import * as fc from "fast-check";
import { constant, exponential } from "postrider";
import { describe, it } from "vitest";
import { messagingErrorOf } from "../support/errors.ts";

const attempts = fc.integer({ min: 1, max: 1_000 });
const randoms = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const limits = fc
  .tuple(fc.integer({ min: 1, max: 100_000 }), fc.integer({ min: 0, max: 10_000_000 }))
  .map(([min, more]) => ({ min, max: min + more }));
const factors = fc.double({ min: 1, max: 100, noNaN: true });

describe("exponential", () => {
  it("gives min after the first failure and multiplies from there", () => {
    const backoff = exponential({ min: 100, max: "1m", jitter: "none" });

    assert.deepEqual(
      [1, 2, 3, 4].map((attempt) => backoff(attempt, 0.5)),
      [100, 200, 400, 800],
    );
  });

  it("without jitter never shrinks from one attempt to the next, and never passes max", () => {
    fc.assert(
      fc.property(limits, factors, attempts, (limit, factor, attempt) => {
        const backoff = exponential({ ...limit, factor, jitter: "none" });
        const [now, next] = [backoff(attempt, 0), backoff(attempt + 1, 0)];
        assert.ok(now >= limit.min && now <= next && next <= limit.max, `${now} then ${next}`);
      }),
    );
  });

  it("reaches max and stays there, however many attempts there are", () => {
    const backoff = exponential({ min: 1, max: "10m", jitter: "none" });

    assert.deepEqual(
      [50, 500, 5_000, Number.MAX_SAFE_INTEGER].map((attempt) => backoff(attempt, 0)),
      [600_000, 600_000, 600_000, 600_000],
    );
  });

  it("with full jitter gives anything between nothing and the delay without jitter", () => {
    fc.assert(
      fc.property(limits, attempts, randoms, (limit, attempt, random) => {
        const whole = exponential({ ...limit, jitter: "none" })(attempt, random);
        const delay = exponential({ ...limit, jitter: "full" })(attempt, random);
        assert.ok(delay >= 0 && delay <= whole);
      }),
    );
    assert.equal(exponential({ min: 1_000, jitter: "full" })(1, 0), 0);
    assert.equal(exponential({ min: 1_000, jitter: "full" })(1, 0.25), 250);
  });

  it("with equal jitter gives at least half of the delay without jitter", () => {
    fc.assert(
      fc.property(limits, attempts, randoms, (limit, attempt, random) => {
        const whole = exponential({ ...limit, jitter: "none" })(attempt, random);
        const delay = exponential({ ...limit, jitter: "equal" })(attempt, random);
        assert.ok(delay >= whole / 2 && delay <= whole);
      }),
    );
  });

  it("jitters fully unless told otherwise", () => {
    assert.equal(exponential({ min: 1_000 })(1, 0), 0);
  });

  it("says the longest delay it can give", () => {
    assert.equal(exponential({ min: "1s", max: "5m" }).maxMs, 300_000);
  });

  it("takes a min above the default max", () => {
    const backoff = exponential({ min: "1h", jitter: "none" });

    assert.equal(backoff(1, 0), 3_600_000);
    assert.equal(backoff(9, 0), 3_600_000);
  });

  it.each([
    { min: 0 },
    { min: -1 },
    { min: NaN },
    { min: "soon" },
    { min: "2s", max: "1s" },
    { factor: 0.5 },
    { factor: NaN },
    { factor: Infinity },
    { factor: "2" },
    { jitter: "some" },
    { maximum: "1s" },
  ])("refuses %j", async (options) => {
    await messagingErrorOf("ERR_CONFIG", () => exponential(options as never));
  });
});

describe("constant", () => {
  it("gives the same delay each time and says so", () => {
    const backoff = constant("30s");

    assert.deepEqual([backoff(1, 0), backoff(99, 0.9), backoff.maxMs], [30_000, 30_000, 30_000]);
  });

  it("refuses what is no duration", async () => {
    await messagingErrorOf("ERR_CONFIG", () => constant("10 s"));
  });
});
