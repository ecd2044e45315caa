import assert from "node:assert/strict";
import { describe, it } from "vitest";
import { longestSilence } from "../../adapters/kafka/session.ts";

describe("the silence of a consumer", () => {
  it("is that of the broker that has not answered a fetch for longest", () => {
    const fetched = new Map([
      ["1", 9_000],
      ["2", 3_000],
    ]);

    assert.equal(longestSilence(["1", "2"], fetched, 1_000, 10_000), 7_000);
    assert.equal(
      longestSilence(["1"], fetched, 1_000, 10_000),
      1_000,
      "a broker that is gone counts for nothing",
    );
  });

  it("counts from the join where there was no answer since", () => {
    assert.equal(longestSilence(["1", "2"], new Map([["1", 9_000]]), 4_000, 10_000), 6_000);
    assert.equal(longestSilence(["1"], new Map([["1", 2_000]]), 4_000, 10_000), 6_000);
    assert.equal(longestSilence([], new Map(), 4_000, 10_000), 6_000);
  });
});
