import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, it } from "vitest";
import { createAbortFan } from "../../src/abort-fan.ts";

describe("createAbortFan", () => {
  it("calls each listener once when the signal aborts, and none that was taken back", () => {
    const abort = new AbortController();
    const fan = createAbortFan(abort.signal);
    const called: string[] = [];
    fan.add(() => called.push("a"));
    const takeBack = fan.add(() => called.push("b"));
    fan.add(() => called.push("c"));
    takeBack();

    abort.abort("reason");

    assert.deepEqual(called, ["a", "c"]);
    assert.deepEqual([fan.aborted, fan.reason], [true, "reason"]);
  });

  it("costs the signal one listener, and none when nobody cares", () => {
    const { signal } = new AbortController();
    const fan = createAbortFan(signal);
    const takeBack = Array.from({ length: 1_000 }, () => fan.add(() => undefined));
    assert.equal(getEventListeners(signal, "abort").length, 1);

    for (const one of takeBack) one();
    for (const one of takeBack) one();

    assert.equal(getEventListeners(signal, "abort").length, 0);
    fan.add(() => undefined);
    assert.equal(getEventListeners(signal, "abort").length, 1);
  });

  it("never aborts without a signal", () => {
    const fan = createAbortFan(undefined);
    fan.add(() => assert.fail("called"))();

    assert.deepEqual([fan.aborted, fan.reason], [false, undefined]);
  });
});
