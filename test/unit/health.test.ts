import assert from "node:assert/strict";
import { describe, it } from "vitest";
import { check, summarize } from "../../src/health.ts";

const up = check(true, undefined, true);
const down = check(false, new Error("gone"), true);
const minor = check(false, new Error("late"), false);

describe("summarize", () => {
  it.each([
    ["everything is up", { a: up }, "open", ["up", true, true]],
    ["there is nothing to check", {}, "open", ["up", true, true]],
    ["something minor is down", { a: up, b: minor }, "open", ["degraded", true, true]],
    ["something critical is down", { a: up, b: down }, "open", ["down", true, false]],
    ["it is closing", { a: up }, "closing", ["up", true, false]],
    ["it is closed", { a: up }, "closed", ["down", false, false]],
  ] as const)("when %s", (_when, checks, open, expected) => {
    const { status, live, ready } = summarize(checks, open);

    assert.deepEqual([status, live, ready], expected);
  });
});

describe("check", () => {
  it("carries the error's words, and none when there is none", () => {
    assert.deepEqual(down, { status: "down", critical: true, error: "gone" });
    assert.deepEqual(up, { status: "up", critical: true });
  });
});
