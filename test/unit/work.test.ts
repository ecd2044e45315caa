import assert from "node:assert/strict";
import { describe, it } from "vitest";
import { header } from "../../src/headers.ts";
import { infoOf } from "../../src/work.ts";
import { workOf } from "./support/work.ts";

describe("a delivery's attempt", () => {
  it.each<[string, Record<string, string>, number, number]>([
    ["of a new message is 1", {}, 0, 1],
    ["counts failed attempts", { [header.failures]: "3" }, 0, 4],
    ["counts hand-overs that were cut off", {}, 2, 3],
    ["counts both, of earlier copies too", { [header.failures]: "1", [header.redeliveries]: "1" }, 1, 4],
    ["is not led astray by garbage", { [header.failures]: "abc", [header.redeliveries]: "-1" }, 0, 1],
    ["is bounded when somebody forges it", { [header.failures]: "1e300" }, 0, 1_000_001],
  ])("%s", (_what, headers, redeliveries, attempt) => {
    assert.equal(workOf({ headers }, { redeliveries }).attempt, attempt);
  });
});

describe("a delivery's inbox key", () => {
  it("is its group, its idempotency key or else its id, and how often it was redriven", () => {
    const headers = { [header.redrives]: "2" };

    assert.deepEqual(workOf({ attributes: { id: "1" }, headers }).inboxKey, {
      scope: "t--g",
      key: "1",
      redrives: 2,
    });
    assert.equal(workOf({ attributes: { id: "1", idempotencykey: "k" } }).inboxKey.key, "k");
    assert.equal(workOf({ attributes: { id: "1", idempotencykey: "" } }).inboxKey.key, "1");
    assert.equal(workOf().inboxKey.key, "t:p@1");
  });
});

describe("infoOf", () => {
  it("names the message and the attempt under way", () => {
    const work = workOf({ attributes: { id: "1" } });
    work.attempt = 2;

    assert.deepEqual(infoOf(work), { topic: "t", group: "g", messageId: "1", attempt: 2 });
  });
});
