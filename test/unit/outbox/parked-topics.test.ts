import assert from "node:assert/strict";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { createParkedTopics } from "../../../src/outbox/parked-topics.ts";

describe("parked topics", () => {
  it("are set aside for a while, then tried again", async () => {
    const runtime = createFakeRuntime();
    const topics = createParkedTopics(runtime);

    const delayMs = topics.refused("t");
    assert.deepEqual(topics.parked(), ["t"]);
    assert.ok(delayMs >= 100 && delayMs <= 200);
    await runtime.advance(delayMs);

    assert.deepEqual(topics.parked(), []);
  });

  it("wait longer after each refusal, up to half a minute", async () => {
    const runtime = createFakeRuntime();
    const topics = createParkedTopics(runtime);
    const waits: number[] = [];
    for (let i = 0; i < 30; i++) {
      waits.push(topics.refused("t"));
      await runtime.advance(waits.at(-1) ?? 0);
    }

    assert.ok(
      waits.every((ms, i) => ms >= 100 && ms <= Math.min(30_000, 200 * 2 ** i)),
      waits.join(" "),
    );
    assert.ok(Math.max(...waits) > 10_000);
  });

  it("take the refusal of many rows at once for one", async () => {
    const runtime = createFakeRuntime();
    const topics = createParkedTopics(runtime);
    const waits = Array.from({ length: 500 }, () => topics.refused("t"));

    assert.equal(new Set(waits).size, 1);
    await runtime.advance(waits[0] ?? 0);
    assert.ok(topics.refused("t") <= 400);
  });

  it("are forgotten when they accept again", async () => {
    const runtime = createFakeRuntime();
    const topics = createParkedTopics(runtime);
    for (let i = 0; i < 10; i++) await runtime.advance(topics.refused("t"));

    topics.accepted("t");

    assert.ok(topics.refused("t") <= 200);
    assert.deepEqual(topics.parked(), ["t"]);
  });
});
