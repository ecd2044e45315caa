import assert from "node:assert/strict";
import { constant, deadLetter, defineTopic, discard } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import type { MemoryOperation } from "postrider/memory";
import { type TestBus, openBus, settle } from "./support/bus.ts";
import { failing, holding, unanswered } from "./support/faults.ts";

const topic = defineTopic<number>("t");
const group = "g";
const retry = { maxAttempts: 2, backoff: constant("10s") };

/** What leads to each way of settling. */
const ways: readonly (readonly [MemoryOperation, (attempt: number) => unknown, string])[] = [
  ["ack", () => undefined, "handled"],
  ["ack", () => discard("old"), "discarded"],
  ["deadLetter", () => deadLetter("odd"), "deadLettered"],
  [
    "defer",
    (attempt) => {
      if (attempt === 1) throw new Error("later");
    },
    "retry",
  ],
];

const letters = ({ bus }: TestBus): Promise<unknown[]> =>
  Array.fromAsync(bus.deadLetters(topic, { group }).list());

describe.each(ways)("when %s fails (%s)", (operation, handle, outcome) => {
  it("the message stays unsettled, and settling is tried again with growing waits until it works", async () => {
    const world = openBus();
    const calls = failing(world.adapter.faults, operation, 5);
    let runs = 0;
    await world.bus.consume(topic, { group, retry, lease: "12h" }, (_payload, { attempt }) => {
      runs += 1;
      return handle(attempt);
    });

    await world.bus.publish(topic, 1);
    await settle(world.runtime);
    assert.equal(world.of("settleFailed").length, 1);
    assert.equal(
      world.of("handled").length + world.of("deadLettered").length + world.of("discarded").length,
      0,
    );
    await world.runtime.advance(60_000);

    const failures = world.of("settleFailed");
    assert.equal(failures.length, 5);
    assert.ok(
      failures.every(
        ({ messageId, attempt, error }) => messageId !== "" && attempt === 1 && error.code === "ERR_BROKER",
      ),
    );
    assert.ok(
      failures.every(({ delayMs }, i) => delayMs >= 50 && delayMs <= 100 * 2 ** i),
      JSON.stringify(failures.map((f) => f.delayMs)),
    );
    assert.ok(calls.calls >= 6);
    assert.equal(world.of(outcome as "handled").length, 1);
    assert.equal(
      runs,
      outcome === "retry" ? 2 : 1,
      "the handler ran again though nothing had settled its message",
    );
    assert.equal((await letters(world)).length, outcome === "deadLettered" ? 1 : 0);
  });

  it("and its answer is lost, the second try finds it done and nothing happens twice", async () => {
    const world = openBus();
    unanswered(world.adapter.faults, operation, 1);
    let runs = 0;
    await world.bus.consume(topic, { group, retry, lease: "12h" }, (_payload, { attempt }) => {
      runs += 1;
      return handle(attempt);
    });

    await world.bus.publish(topic, 1);
    await world.runtime.advance(60_000);

    assert.equal(world.of("settleFailed").length, 1);
    assert.equal(world.of("staleSettle").length, 1);
    assert.equal(runs, outcome === "retry" ? 2 : 1);
    assert.equal((await letters(world)).length, outcome === "deadLettered" ? 1 : 0);
  });

  it("for longer than the consumer may drain, it is given up, and the message comes again", async () => {
    const name = `give-up-${operation}-${outcome}`;
    const world = openBus({ adapter: memory({ name }) });
    const consumer = await world.bus.consume(topic, { group, retry }, (_payload, { attempt }) =>
      handle(attempt),
    );
    failing(world.adapter.faults, operation, Infinity);
    await world.bus.publish(topic, 1);
    await settle(world.runtime);

    const closed = consumer.close({ timeout: "1s" });
    await world.runtime.advance(2_000);
    await closed;

    assert.equal(world.runtime.nextTimerMs, undefined, "a timer was left");
    const other = openBus({ adapter: memory({ name }) });
    let again = 0;
    await other.bus.consume(topic, { group }, () => void (again += 1));
    await settle(other.runtime);
    assert.equal(again, 1);
  });
});

describe("settling", () => {
  it("of many messages at once is one call", async () => {
    const world = openBus();
    const calls = failing(world.adapter.faults, "ack", 0);
    await world.bus.consume(topic, { group, concurrency: 100, prefetch: 200 }, () => undefined);

    await world.bus.publishAll(
      topic,
      Array.from({ length: 100 }, (_, i) => i),
    );
    await settle(world.runtime);

    assert.equal(world.of("handled").length, 100);
    assert.ok(calls.calls <= 4, `${calls.calls} calls for 100 messages`);
  });

  it("too late is said and counted, changes nothing, and does not bother the broker", async () => {
    const world = openBus();
    const acks = failing(world.adapter.faults, "ack", 0);
    const finish = Promise.withResolvers<void>();
    let runs = 0;
    await world.bus.consume(topic, { group }, () => {
      runs += 1;
      return runs === 1 ? finish.promise : undefined;
    });
    await world.bus.publish(topic, 1);
    await settle(world.runtime);

    world.adapter.faults.disconnect();
    finish.resolve();
    await settle(world.runtime);

    assert.equal(runs, 2);
    assert.deepEqual(world.outcomes().toSorted(), ["handled", "staleSettle"]);
    assert.equal(acks.calls, 1);
  });

  it("waits no longer for what was lost meanwhile: its place is free at once", async () => {
    const world = openBus();
    failing(world.adapter.faults, "ack", 8);
    let runs = 0;
    await world.bus.consume(topic, { group, concurrency: 1, lease: "12h" }, () => void (runs += 1));
    await world.bus.publish(topic, 1);
    await world.runtime.advance(7_000);
    const waitsFor = world.of("settleFailed").at(-1)?.delayMs ?? 0;
    world.adapter.faults.before = undefined;

    world.adapter.faults.disconnect();
    await settle(world.runtime);

    assert.ok(waitsFor > 0);
    assert.equal(runs, 2, "the message came again but found no free place");
    assert.deepEqual(world.outcomes(), ["staleSettle", "handled"]);
  });

  it("does not trust an adapter not to throw", async () => {
    const broker = memory();
    const adapter = {
      ...broker,
      subscribe: (async (spec, sink) => {
        const subscription = await broker.subscribe(spec, sink);
        let calls = 0;
        const defer = subscription.defer.bind(subscription);
        subscription.defer = (...given) => {
          calls += 1;
          if (calls === 1) throw new RangeError("bug");
          if (calls === 2) return Promise.reject(new RangeError("bug"));
          return defer(...given);
        };
        return subscription;
      }) as typeof broker.subscribe,
    };
    const world = openBus({ adapter });
    await world.bus.consume(topic, { group, retry }, (_payload, { attempt }) => {
      if (attempt === 1) throw new Error("later");
    });

    await world.bus.publish(topic, 1);
    await world.runtime.advance(60_000);

    assert.deepEqual(
      world.of("settleFailed").map(({ error }) => error.code),
      ["ERR_SETTLE", "ERR_SETTLE"],
    );
    assert.deepEqual(world.outcomes(), ["retry", "handled"]);
  });

  it("is not begun before the handler has ended", async () => {
    const world = openBus();
    const acks = failing(world.adapter.faults, "ack", 0);
    const finish = Promise.withResolvers<void>();
    await world.bus.consume(topic, { group }, () => finish.promise);
    await world.bus.publish(topic, 1);
    await world.runtime.advance(60_000);
    assert.equal(acks.calls, 0);

    finish.resolve();
    await settle(world.runtime);

    assert.equal(acks.calls, 1);
  });

  it("of a slow broker keeps the message's place, so that no more than the prefetch is ever held", async () => {
    const world = openBus();
    const held = holding(world.adapter.faults, "ack");
    let runs = 0;
    await world.bus.consume(topic, { group, concurrency: 2, prefetch: 4 }, () => void (runs += 1));

    await world.bus.publishAll(
      topic,
      Array.from({ length: 20 }, (_, i) => i),
    );
    await settle(world.runtime);

    assert.equal(runs, 2, "handlers ran ahead of what was settled");
    held.letGo();
  });
});
