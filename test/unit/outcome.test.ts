import assert from "node:assert/strict";
import { deadLetter, discard, retryAfter } from "postrider";
import { describe, it } from "vitest";
import { checkOutcome, isDirective } from "../../src/outcome.ts";
import { messagingErrorOf } from "./support/errors.ts";

describe("a directive", () => {
  it("is recognised, and nothing else is", () => {
    assert.ok([retryAfter("5m"), deadLetter("no"), discard("no")].every(isDirective));
    const others = [undefined, null, "ack", { kind: "discard", reason: "x" }, () => 1, Object.create(null)];
    assert.ok(!others.some(isDirective));
  });

  it("is recognised when a second copy of the package made it", async () => {
    const copy = (await import(
      `../../src/outcome.ts?copy=${"second" as string}`
    )) as typeof import("../../src/outcome.ts");

    assert.ok(isDirective(copy.discard("no")));
  });

  it.each([-1, NaN, Infinity, "soon", undefined, null])("to try again after %s is refused", async (delay) => {
    await messagingErrorOf("ERR_DELAY", () => retryAfter(delay as never));
  });

  it.each(["", 7, null, undefined, "\ud800"])("with reason %j is refused", async (reason) => {
    await messagingErrorOf("ERR_VALIDATION", () => deadLetter(reason as string));
    await messagingErrorOf("ERR_VALIDATION", () => discard(reason as string));
  });

  it("keeps a well-formed beginning of a long reason", () => {
    const { reason = "" } = discard(`${"x".repeat(199)}🚀`);

    assert.ok(reason.length <= 200 && reason.isWellFormed());
  });
});

describe("checkOutcome", () => {
  const error = new Error("failed");

  it.each([
    { kind: "ack" },
    { kind: "duplicate" },
    { kind: "release" },
    { kind: "discard", reason: "old" },
    { kind: "retry", delayMs: 5, error },
    { kind: "later", delayMs: 5 },
    { kind: "deadLetter", reason: "bad", error },
  ])("takes %j from a middleware", (outcome) => {
    assert.deepEqual(checkOutcome(outcome), outcome);
  });

  it("does not take a middleware's word that the dead letter is already stored", () => {
    assert.deepEqual(checkOutcome({ kind: "deadLetter", reason: "bad", error, stored: true }), {
      kind: "deadLetter",
      reason: "bad",
      error,
    });
  });

  it.each([
    undefined,
    null,
    true,
    "ack",
    {},
    { kind: "nack" },
    { kind: "later", delayMs: NaN },
    { kind: "retry" },
    { kind: "later", delayMs: -1 },
  ])("refuses %j and says what a middleware must return", async (outcome) => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () => checkOutcome(outcome));
    assert.match(message, /return await next\(\)/u);
  });
});
