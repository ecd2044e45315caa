import assert from "node:assert/strict";
import * as fc from "fast-check";
import { describe, it } from "vitest";
import { formatDuration, maxDurationMs, toMs } from "../../src/duration.ts";
import { messagingErrorOf } from "./support/errors.ts";

describe("toMs", () => {
  it.each([
    [0, 0],
    [1_500, 1_500],
    ["250ms", 250],
    ["10s", 10_000],
    ["1.5s", 1_500],
    ["5m", 300_000],
    ["2h", 7_200_000],
    ["1d", 86_400_000],
  ])("reads %j as %d ms", (value, ms) => {
    assert.equal(toMs(value, "option"), ms);
  });

  it.each([
    -1,
    NaN,
    Infinity,
    -Infinity,
    maxDurationMs + 1,
    "366d",
    "",
    "10",
    "10 s",
    "10S",
    "-1s",
    "1e3s",
    "١s",
    `${"9".repeat(400)}s`,
    null,
    undefined,
    true,
    10n,
    {},
    [],
    new Date(0),
  ])("refuses %s", async (value) => {
    await messagingErrorOf("ERR_CONFIG", () => toMs(value, "timeout"));
  });

  it("names the option, what was given and what is allowed", async () => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () => toMs("10 parsecs", "drainTimeout"));

    assert.match(message, /^drainTimeout must be .*"10s".*got "10 parsecs"$/u);
  });

  it("names the range when the value is outside of it", async () => {
    const { message } = await messagingErrorOf("ERR_DELAY", () =>
      toMs("2s", "delay", { min: 1, max: 1_000, code: "ERR_DELAY" }),
    );

    assert.equal(message, 'delay must be between 1 ms and 1000 ms, got "2s"');
  });
});

describe("formatDuration", () => {
  it("gives back what toMs reads, in the largest exact unit", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: maxDurationMs }), (ms) => {
        assert.equal(toMs(formatDuration(ms), "round trip"), ms);
      }),
    );
    assert.deepEqual([250, 1_000, 90_000, 3_600_000, 172_800_000].map(formatDuration), [
      "250ms",
      "1s",
      "90s",
      "1h",
      "2d",
    ]);
  });
});
