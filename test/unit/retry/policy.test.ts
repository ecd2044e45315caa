import assert from "node:assert/strict";
import * as fc from "fast-check";
import { NonRetryableError } from "postrider";
import { describe, it } from "vitest";
import { constant } from "../../../src/retry/backoff.ts";
import { type Failure, createRetryPolicy, decide, longestDelayMs } from "../../../src/retry/policy.ts";
import { messagingErrorOf } from "../support/errors.ts";

const error = new Error("failed");
const failure = (given: Partial<Failure> = {}): Failure => ({ error, failures: 1, ageMs: 0, ...given });

describe("decide", () => {
  it("retries a first failure after the backoff of its number", () => {
    const seen: number[][] = [];
    const policy = createRetryPolicy({ backoff: (...given) => (seen.push(given), 70) });

    assert.deepEqual(decide(failure(), policy, 0.25), { kind: "retry", delayMs: 70, error });
    assert.deepEqual(seen, [[1, 0.25]]);
  });

  it("counts the first attempt among maxAttempts", () => {
    const policy = createRetryPolicy({ maxAttempts: 3, backoff: constant(1) });

    assert.deepEqual(
      [1, 2, 3, 4].map((failures) => decide(failure({ failures }), policy, 0).kind),
      ["retry", "retry", "deadLetter", "deadLetter"],
    );
  });

  it("ends with the reason and the error of the last failure", () => {
    const policy = createRetryPolicy({ maxAttempts: 1 });

    assert.deepEqual(decide(failure(), policy, 0), { kind: "deadLetter", reason: "exhausted", error });
  });

  it("gives up on an error no retry can heal, whatever is left", () => {
    const hopeless = new NonRetryableError("no such customer");

    assert.deepEqual(decide(failure({ error: hopeless }), createRetryPolicy(), 0), {
      kind: "deadLetter",
      reason: "non-retryable",
      error: hopeless,
    });
  });

  it("gives up when retryIf says so, and asks it with the error itself", () => {
    const policy = createRetryPolicy({ retryIf: (given) => given !== error });

    assert.equal(decide(failure(), policy, 0).kind, "deadLetter");
    assert.equal(decide(failure({ error: null }), policy, 0).kind, "retry");
  });

  it("gives up when the retry would come later than maxAge after the first failure", () => {
    const policy = createRetryPolicy({ maxAge: 1_000, backoff: constant(100) });

    assert.equal(decide(failure({ ageMs: 900 }), policy, 0).kind, "retry");
    assert.deepEqual(decide(failure({ ageMs: 901 }), policy, 0), {
      kind: "deadLetter",
      reason: "expired",
      error,
    });
  });

  it("takes the handler's own delay, and still counts the attempt", () => {
    const policy = createRetryPolicy({ maxAttempts: 2, retryIf: () => false, backoff: constant(1) });

    assert.deepEqual(decide(failure({ delayMs: 5_000 }), policy, 0), {
      kind: "retry",
      delayMs: 5_000,
      error,
    });
    assert.equal(decide(failure({ delayMs: 5_000, failures: 2 }), policy, 0).kind, "deadLetter");
  });

  it("tries a message on whose key waits for it, out of attempts or of time, and never at once", () => {
    const policy = createRetryPolicy({ maxAttempts: 2, maxAge: "1h", backoff: (attempt) => attempt * 400 });
    const blocked = (given: Partial<Failure>) => decide(failure({ ...given, blocks: true }), policy, 0);

    assert.deepEqual(blocked({}), { kind: "retry", delayMs: 400, error });
    assert.deepEqual(blocked({ failures: 2 }), { kind: "retry", delayMs: 1_000, error, blocks: true });
    assert.deepEqual(blocked({ failures: 9 }), { kind: "retry", delayMs: 3_600, error, blocks: true });
    assert.deepEqual(blocked({ ageMs: 3_600_000 }), { kind: "retry", delayMs: 1_000, error, blocks: true });
    assert.equal(blocked({ error: new NonRetryableError("never") }).kind, "deadLetter");
  });

  it("makes a usable delay of anything a backoff of the user's own, or a middleware, gives", () => {
    fc.assert(
      fc.property(fc.oneof(fc.double(), fc.constantFrom(NaN, -1, Infinity, -Infinity, 1e300)), (ms) => {
        const policy = createRetryPolicy({ backoff: () => ms, maxAge: "365d" });
        for (const given of [failure(), failure({ delayMs: ms })]) {
          const outcome = decide(given, policy, 0);
          if (outcome.kind === "deadLetter") continue;
          assert.ok(Number.isInteger(outcome.delayMs) && outcome.delayMs >= 0, String(outcome.delayMs));
        }
      }),
    );
  });
});

describe("createRetryPolicy", () => {
  it("has documented defaults", () => {
    const policy = createRetryPolicy();

    assert.deepEqual([policy.maxAttempts, policy.maxAgeMs, policy.backoff.maxMs], [8, 86_400_000, 600_000]);
    assert.equal(policy.retryIf(null), true);
  });

  it.each([
    { maxAttempts: 0 },
    { maxAttempts: Infinity },
    { maxAttempts: 1.5 },
    { maxAttempts: 1_001 },
    { maxAttempts: "3" },
    { maxAge: 0 },
    { maxAge: "1 day" },
    { backoff: 1_000 },
    { retryIf: true },
    { attempts: 3 },
    null,
    [],
  ])("refuses %j", async (options) => {
    await messagingErrorOf("ERR_CONFIG", () => createRetryPolicy(options as never));
  });

  it("suggests the option that was meant", async () => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () =>
      createRetryPolicy({ maxAttemps: 3 } as never),
    );

    assert.match(message, /unknown option "maxAttemps" \(did you mean "maxAttempts"\?\)/u);
  });
});

describe("longestDelayMs", () => {
  it("is the backoff's, a day for one that does not say, and never above maxAge", () => {
    assert.equal(longestDelayMs(createRetryPolicy({ backoff: constant("1m") })), 60_000);
    assert.equal(longestDelayMs(createRetryPolicy({ backoff: () => 1, maxAge: "7d" })), 86_400_000);
    assert.equal(longestDelayMs(createRetryPolicy({ backoff: constant("1h"), maxAge: "5m" })), 300_000);
  });
});
