import assert from "node:assert/strict";
import {
  type HandlerContext,
  NonRetryableError,
  constant,
  deadLetter,
  defineTopic,
  discard,
} from "postrider";
import { describe, it } from "vitest";
import { openBus, settle, until } from "../support/bus.ts";
import { brokerError } from "../support/faults.ts";

const topic = defineTopic<{ n: number }>("t");
const always = (): never => {
  throw new Error("always");
};

describe("a handler", () => {
  it("is given the payload and everything that is known of the message", async () => {
    const world = openBus({ source: "shop" });
    const keyed = defineTopic<{ n: number }>("t", { key: ({ n }) => `k${n}` });
    let seen: HandlerContext<{ n: number }> | undefined;
    await world.bus.consume(keyed, { group: "g" }, (payload, context) => {
      assert.equal(payload, context.message.payload);
      seen = context;
    });

    const { id } = await world.bus.publish(keyed, { n: 1 }, { headers: { a: "b" }, idempotencyKey: "i" });
    await settle(world.runtime);

    const { message, group, attempt, signal, tx } = seen ?? assert.fail("not called");
    assert.deepEqual([group, attempt, signal.aborted, tx], ["g", 1, false, undefined]);
    assert.deepEqual(
      [message.id, message.topic, message.key, message.source, message.idempotencyKey, message.redrives],
      [id, "t", "k1", "shop", "i", 0],
    );
    assert.deepEqual({ ...message.headers }, { a: "b" });
  });

  it("acks by returning, whatever it returns", async () => {
    const world = openBus();
    const results = [undefined, null, false, 0, "retry", { kind: "retry" }, new Error("returned")];
    await world.bus.consume(topic, { group: "g" }, ({ n }) => results[n]);

    await world.bus.publishAll(
      topic,
      results.map((_, n) => ({ n })),
    );
    await settle(world.runtime);

    assert.deepEqual(
      world.outcomes(),
      results.map(() => "handled"),
    );
  });

  it("may say that its message is of no use, or a dead letter, at once", async () => {
    const world = openBus();
    await world.bus.consume(topic, { group: "g" }, ({ n }) => (n === 1 ? discard("old") : deadLetter("odd")));

    await world.bus.publishAll(topic, [{ n: 1 }, { n: 2 }]);
    await settle(world.runtime);

    assert.equal(world.of("discarded")[0]?.reason, "old");
    assert.equal(world.of("deadLettered")[0]?.reason, "odd");
    const letters = await Array.fromAsync(world.bus.deadLetters(topic, { group: "g" }).list());
    assert.deepEqual(
      letters.map(({ reason, attempts }) => [reason, attempts]),
      [["odd", 1]],
    );
  });

  it("dead-letters at once by an error that no retry can heal", async () => {
    const world = openBus();
    await world.bus.consume(topic, { group: "g" }, () => {
      throw new NonRetryableError("no such customer");
    });

    await world.bus.publish(topic, { n: 1 });
    await settle(world.runtime);

    assert.equal(world.of("deadLettered")[0]?.reason, "non-retryable");
    assert.equal(world.of("retry").length, 0);
  });

  it("gets a payload of its own for each attempt, whatever the attempt before did to its own", async () => {
    const world = openBus();
    const seen: unknown[] = [];
    const retry = { maxAttempts: 3, backoff: constant(10) };
    await world.bus.consume(topic, { group: "g", retry }, (payload) => {
      seen.push({ ...payload });
      payload.n = 99;
      throw new Error("again");
    });

    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(100);

    assert.deepEqual(seen, [{ n: 1 }, { n: 1 }, { n: 1 }]);
  });

  it("cannot change the bytes that a retry or a dead letter carries on", async () => {
    const world = openBus();
    const binary = defineTopic<Uint8Array>("t", { codec: "bytes" });
    const retry = { maxAttempts: 2, backoff: constant("10s") };
    await world.bus.consume(binary, { group: "g", retry }, (payload) => {
      payload.fill(0);
      throw new Error("again");
    });

    await world.bus.publish(binary, Uint8Array.of(1, 2, 3));
    await world.runtime.advance(20_000);

    const [letter] = await Array.fromAsync(world.bus.deadLetters(binary, { group: "g" }).list());
    assert.deepEqual([...(letter?.body ?? [])], [1, 2, 3]);
  });

  const thrown: readonly unknown[] = [
    null,
    undefined,
    "text",
    Symbol("s"),
    new TypeError("t"),
    Object.create(null),
    new Proxy({}, { get: always, has: always, getPrototypeOf: always }),
    Proxy.revocable({}, {}).proxy,
  ];
  it.each(thrown.map((value, i) => [i, typeof value] as const))("may throw anything (%d: %s)", async (i) => {
    const world = openBus();
    const revoked = Proxy.revocable({}, {});
    revoked.revoke();
    const value = i === thrown.length - 1 ? revoked.proxy : thrown[i];
    const retry = { maxAttempts: 2, backoff: constant(10) };
    await world.bus.consume(topic, { group: "g", retry }, () => Promise.reject(value));

    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(100);

    assert.deepEqual(world.outcomes(), ["retry", "deadLettered"]);
    assert.equal(world.of("deadLettered")[0]?.error, value);
    assert.equal(world.of("settleFailed").length, 0);
  });
});

describe("what a handler publishes", () => {
  it("carries on the chain: the message is its cause, and the correlation is the first message's", async () => {
    const world = openBus();
    const [second, third] = [defineTopic<number>("second"), defineTopic<number>("third")];
    const chain: Record<string, string | undefined>[] = [];
    await world.bus.consume(topic, { group: "g" }, async (_payload, context) => {
      await context.publish(second, 1);
    });
    await world.bus.consume(second, { group: "g" }, async (_payload, context) => {
      const [sent] = await context.publishAll(third, [1]);
      assert.equal(sent?.status, "accepted");
    });
    for (const one of [topic, second, third]) {
      await world.bus.consume(one as typeof second, { group: "watch" }, (_payload, { message }) => {
        const { id, correlationId, causationId } = message;
        chain.push({ id, correlationId, causationId });
      });
    }

    const { id } = await world.bus.publish(topic, { n: 1 });
    await until(world.runtime, () => chain.length === 3);

    assert.deepEqual(chain[0], { id, correlationId: undefined, causationId: undefined });
    assert.deepEqual([chain[1]?.["correlationId"], chain[1]?.["causationId"]], [id, id]);
    assert.deepEqual([chain[2]?.["correlationId"], chain[2]?.["causationId"]], [id, chain[1]?.["id"]]);
  });

  it("may have another correlation when the handler says so", async () => {
    const world = openBus();
    const second = defineTopic<number>("second");
    let correlation: string | undefined;
    await world.bus.consume(topic, { group: "g" }, async (_payload, context) => {
      await context.publish(second, 1, { correlationId: "mine" });
    });
    await world.bus.consume(second, { group: "g" }, (_payload, { message }) => {
      correlation = message.correlationId;
    });

    await world.bus.publish(topic, { n: 1 });
    await until(world.runtime, () => correlation !== undefined);

    assert.equal(correlation, "mine");
  });

  it("fails the attempt when it cannot be sent and the handler does not mind it", async () => {
    const world = openBus();
    const second = defineTopic<number>("second");
    await world.bus.consume(topic, { group: "g", retry: { maxAttempts: 1 } }, (_payload, context) =>
      context.publish(second, 1, { timeout: 100 }),
    );
    await world.bus.publish(topic, { n: 1 });
    world.adapter.faults.before = (operation) => (operation === "publish" ? brokerError() : undefined);
    await world.runtime.advance(1_000);

    assert.equal((world.of("deadLettered")[0]?.error as { code?: string } | undefined)?.code, "ERR_TIMEOUT");
  });
});
