import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { PublishError, TransportError } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { type TestBus, openBus, settle } from "../support/bus.ts";
import { errorOf } from "../support/errors.ts";
import { brokerError, failing, fatalError, holding, unanswered } from "../support/faults.ts";
import { clean, stored, topic } from "../support/publishing.ts";

/** What `publish` rejects with, while the clock advances as far as needed. */
async function publishError({ bus, runtime }: TestBus, ms: number, options = {}): Promise<PublishError> {
  const failed = errorOf(() => bus.publish(topic, 1, options));
  await runtime.advance(ms);
  const error = await failed;
  assert.ok(error instanceof PublishError, String(error));
  return error;
}

describe("publish", () => {
  it("resolves with the id and the durability that was reached", async () => {
    const world = openBus();

    const receipt = await world.bus.publish(topic, 1, { durability: "accepted" });

    assert.deepEqual(receipt, { id: receipt.id, durability: "accepted", duplicate: false });
    assert.deepEqual(world.of("published"), [
      { type: "published", topic: "t", messageId: receipt.id, duplicate: false },
    ]);
  });

  it("says when the broker had the message already", async () => {
    const { bus } = openBus();
    await bus.publish(topic, 1, { id: "same" });

    assert.equal((await bus.publish(topic, 1, { id: "same" })).duplicate, true);
    assert.equal((await bus.publish(topic, 2, { idempotencyKey: "k" })).duplicate, false);
    assert.equal((await bus.publish(topic, 2, { idempotencyKey: "k" })).duplicate, true);
  });

  it("tries again with the same id until it is confirmed", async () => {
    const world = openBus();
    failing(world.adapter.faults, "publish", 3);

    const sent = world.bus.publish(topic, 1);
    await world.runtime.advance(10_000);
    const { id } = await sent;

    const retries = world.of("publishRetry");
    assert.equal(retries.length, 3);
    assert.ok(retries.every(({ messageId }) => messageId === id));
  });

  it("stores the message once when the answer was lost and it was sent again", async () => {
    const world = openBus();
    unanswered(world.adapter.faults, "publish", 2);

    const sent = world.bus.publish(topic, 7);
    await world.runtime.advance(10_000);

    assert.equal((await sent).duplicate, true);
    assert.deepEqual(await stored(world), [7]);
  });

  it("keeps its waits between tries within bounds, and leaves no timer", async () => {
    const world = openBus();
    await world.bus.connect();
    const calls = failing(world.adapter.faults, "publish", 1_000);

    await publishError(world, 60_000, { timeout: "60s" });

    assert.ok(calls.calls > 12 && calls.calls < 60, `${calls.calls} tries in a minute`);
    assert.equal(world.runtime.nextTimerMs, undefined);
  });
});

describe("a publish that fails", () => {
  it("ends as no when every try was refused", async () => {
    const world = openBus();
    failing(world.adapter.faults, "publish", 1_000);

    const error = await publishError(world, 30_000);

    assert.deepEqual([error.code, error.accepted, error.retryable], ["ERR_TIMEOUT", "no", true]);
    assert.match(
      error.message,
      /was not confirmed within 30000 ms\. The broker does not have the message\. Last error: bad moment/u,
    );
    assert.ok(error.cause instanceof TransportError);
    assert.deepEqual(await stored({ ...world, ...clean(world) }), []);
  });

  it("ends as unknown when one answer was lost, though all later tries were refused", async () => {
    const world = openBus();
    unanswered(world.adapter.faults, "publish", 1);
    let calls = 0;
    world.adapter.faults.before = (operation) => {
      if (operation === "publish") calls += 1;
      return operation === "publish" && calls > 1 ? brokerError() : undefined;
    };

    const error = await publishError(world, 30_000);

    assert.equal(error.accepted, "unknown");
    assert.match(error.message, /publish again with the same id/u);
    assert.ok(error.messageId.length > 0 && error.message.includes(error.messageId));
  });

  it("ends as unknown when the deadline comes while the broker has it", async () => {
    const world = openBus();
    const held = holding(world.adapter.faults, "publish", "after");

    const error = await publishError(world, 1_000, { timeout: "1s" });
    held.letGo();

    assert.deepEqual([error.code, error.accepted], ["ERR_TIMEOUT", "unknown"]);
  });

  it("ends at once, as no, when trying again is no use", async () => {
    const world = openBus();
    const calls = failing(world.adapter.faults, "publish", 1_000, fatalError);

    const error = await publishError(world, 0);

    assert.deepEqual([error.code, error.accepted, error.retryable], ["ERR_AUTH", "no", false]);
    assert.equal(calls.calls, 1);
  });

  it("ends at once when the topic cannot be made", async () => {
    const world = openBus();
    failing(
      world.adapter.faults,
      "declare",
      1_000,
      () => new TransportError("ERR_TOPOLOGY", "exists otherwise"),
    );

    const error = await publishError(world, 0);

    assert.deepEqual([error.code, error.accepted], ["ERR_TOPOLOGY", "no"]);
  });

  it("ends as unknown when the adapter breaks its word and throws", async () => {
    const adapter = { ...memory(), publish: () => Promise.reject(new RangeError("bug")) };
    const world = openBus({ adapter });

    const error = await publishError(world, 0);

    assert.deepEqual([error.code, error.accepted], ["ERR_PUBLISH", "unknown"]);
    assert.ok(error.cause instanceof RangeError);
  });

  it("ends as unknown when the adapter gives too few results", async () => {
    const adapter = { ...memory(), publish: () => Promise.resolve([]) };

    assert.equal((await publishError(openBus({ adapter }), 0)).accepted, "unknown");
  });
});

describe("the deadline of a publish", () => {
  it("covers connecting", async () => {
    const world = openBus({ connectTimeout: "1s" });
    failing(world.adapter.faults, "connect", 1_000);

    const error = await publishError(world, 5_000, { timeout: "5s" });

    assert.deepEqual([error.code, error.accepted], ["ERR_TIMEOUT", "no"]);
    assert.match(error.message, /Last error: bad moment/u);
  });

  it("covers a connection that neither comes nor fails", async () => {
    const world = openBus();
    const held = holding(world.adapter.faults, "connect");

    const error = await publishError(world, 5_000, { timeout: "5s" });
    held.letGo();

    assert.deepEqual([error.code, error.accepted], ["ERR_TIMEOUT", "no"]);
  });

  it("ends it before it was handed over, and then it is never handed over", async () => {
    const world = openBus();
    const first = holding(world.adapter.faults, "publish");
    const blocking = world.bus.publish(topic, 1);
    await settle(world.runtime);
    const waiting = errorOf(() => world.bus.publish(topic, 2, { timeout: 100 }));
    await world.runtime.advance(100);

    assert.equal(((await waiting) as PublishError).accepted, "no");
    clean(world);
    first.letGo();
    await blocking;
    assert.deepEqual(await stored(world), [1]);
  });
});

describe("aborting a publish", () => {
  it("before it began rejects with the reason and sends nothing", async () => {
    const world = openBus();
    const reason = new Error("not any more");

    assert.equal(
      await errorOf(() => world.bus.publish(topic, 1, { signal: AbortSignal.abort(reason) })),
      reason,
    );
    assert.deepEqual(await stored(world), []);
    assert.equal(world.runtime.nextTimerMs, undefined);
  });

  it("while it waits between tries rejects at once with the reason, and tries no more", async () => {
    const world = openBus();
    const calls = failing(world.adapter.faults, "publish", 1_000);
    const abort = new AbortController();
    const failed = errorOf(() => world.bus.publish(topic, 1, { signal: abort.signal }));
    await world.runtime.advance(1_000);
    const before = calls.calls;

    abort.abort("enough");

    assert.equal(await failed, "enough");
    await world.runtime.advance(60_000);
    assert.equal(calls.calls, before);
    assert.equal(world.runtime.nextTimerMs, undefined);
  });

  it("after it was confirmed changes nothing", async () => {
    const { bus } = openBus();
    const abort = new AbortController();
    const receipt = await bus.publish(topic, 1, { signal: abort.signal });

    abort.abort();

    assert.equal(receipt.duplicate, false);
  });

  it("puts one listener at the caller's signal, however many messages there are, and takes it back", async () => {
    const world = openBus();
    const held = holding(world.adapter.faults, "publish");
    const { signal } = new AbortController();
    const sent = world.bus.publishAll(topic, [1, 2, 3], { signal });
    await settle(world.runtime);
    assert.equal(getEventListeners(signal, "abort").length, 1);

    held.letGo();
    await sent;

    assert.equal(getEventListeners(signal, "abort").length, 0);
  });
});
