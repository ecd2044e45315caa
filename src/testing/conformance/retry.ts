/** R: failures are retried by policy, with attempts that survive everything, and never without end. */
import assert from "node:assert/strict";
import { NonRetryableError } from "../../errors.ts";
import { deadLetter } from "../../outcome.ts";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, type World, scenario } from "./scenario.ts";

/** Retries wait with the broker, not in the process: that is what adapters differ in. */
const withBroker = { group: "g", holdBelow: 0 } as const;

const count = (world: World, type: string): number =>
  world.events.filter((event) => event.type === type).length;

export const retries: readonly Scenario[] = [
  scenario("R1", "a message that fails twice is handled by the third attempt", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<string>();
    const retry = { maxAttempts: 5, backoff: constant(50) };
    const recorder = await world.consume(bus, topic, { ...withBroker, retry }, (_payload, { attempt }) => {
      if (attempt < 3) throw new Error(`attempt ${attempt}`);
    });

    await bus.publish(topic, "one");
    await eventually(() => assert.equal(count(world, "handled"), 1));

    assert.deepEqual(
      recorder.received.map(({ attempt }) => attempt),
      [1, 2, 3],
    );
  }),

  scenario("R2", "no attempt comes before its delay has passed", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<string>();
    const delays = [300, 1_200];
    const at: number[] = [];
    const retry = { maxAttempts: 3, backoff: (attempt: number) => delays[attempt - 1] ?? 0 };
    await world.consume(bus, topic, { ...withBroker, retry }, (_payload, { attempt }) => {
      at.push(performance.now());
      if (attempt < 3) throw new Error("again");
    });

    await bus.publish(topic, "one");
    await eventually(() => assert.equal(count(world, "handled"), 1));

    const waited = [0, 1].map((i) => (at[i + 1] ?? 0) - (at[i] ?? 0));
    // A broker counts in whole milliseconds and starts counting a moment earlier than we do.
    assert.ok(
      waited.every((ms, i) => ms >= (delays[i] ?? 0) - 5),
      `waited ${waited.map(Math.round).join(", ")} ms`,
    );
  }),

  scenario("R3", "attempts are still counted after the process has changed", async (world) => {
    const topic = world.topic<string>();
    const first = await world.bus();
    const options = { ...withBroker, retry: { maxAttempts: 5, backoff: constant(1_000) } };
    const before = await world.consume(first, topic, options, () => {
      throw new Error("again");
    });
    await first.publish(topic, "one");
    await before.waitFor(1);
    await eventually(() => assert.equal(count(world, "retry"), 1));
    await first.close();

    const second = await world.bus();
    const after = await world.consume(second, topic, options);
    await after.waitFor(1);

    assert.equal(after.received[0]?.attempt, 2);
  }),

  scenario("R4", "after the last attempt it is dead-lettered, with no attempt more", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<string>();
    const retry = { maxAttempts: 3, backoff: constant(50) };
    const recorder = await world.consume(bus, topic, { ...withBroker, retry }, () => {
      throw new Error("always");
    });

    await bus.publish(topic, "one");
    await eventually(() => assert.equal(count(world, "deadLettered"), 1));

    const [letter, ...others] = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
    assert.equal(others.length, 0);
    assert.equal(letter?.reason, "exhausted");
    assert.equal(letter?.attempts, 3);
    assert.equal(recorder.received.length, 3);
  }),

  scenario("R5", "an error no retry can heal is dead-lettered after one attempt", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<string>();
    const recorder = await world.consume(bus, topic, withBroker, () => {
      throw new NonRetryableError("no such customer");
    });

    await bus.publish(topic, "one");
    await eventually(() => assert.equal(count(world, "deadLettered"), 1));

    const [letter] = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
    assert.equal(letter?.reason, "non-retryable");
    assert.equal(letter?.error.message, "no such customer");
    assert.equal(recorder.received.length, 1);
  }),

  scenario(
    "R6",
    "a retry keeps id, key, headers, trace and payload, whatever the handler did to its own copy, and is for its group alone",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<{ n: number }>({ key: ({ n }) => String(n) });
      const other = await world.consume(bus, topic, { group: "other" });
      const retry = { maxAttempts: 2, backoff: constant(50) };
      const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
      const recorder = await world.consume(bus, topic, { ...withBroker, retry }, (payload, { attempt }) => {
        if (attempt > 1) return;
        payload.n = 99;
        throw new Error("again");
      });

      await bus.publish(topic, { n: 7 }, { headers: { tenant: "acme", traceparent } });
      await recorder.waitFor(2, "deliveries");

      const [first, second] = recorder.received.map(({ context }) => context.message);
      assert.deepEqual(second?.payload, { n: 7 });
      assert.equal(second?.id, first?.id);
      assert.equal(second?.key, "7");
      assert.equal(second?.time.getTime(), first?.time.getTime());
      assert.deepEqual({ ...second?.headers }, { tenant: "acme", traceparent });

      await bus.publish(topic, { n: 8 });
      await recorder.waitFor(4, "deliveries");
      await other.waitFor(2);
      assert.equal(other.received.length, 2);
    },
  ),

  scenario(
    "R7",
    "a message that waits for its retry keeps no place: later ones are handled meanwhile",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<number>();
      const retry = { maxAttempts: 2, backoff: constant("3s") };
      const options = { group: "g", concurrency: 1, prefetch: 1, retry };
      const recorder = await world.consume(bus, topic, options, (payload, { attempt }) => {
        if (payload === 1 && attempt === 1) throw new Error("later");
      });

      await bus.publishAll(
        topic,
        Array.from({ length: 100 }, (_, i) => i + 1),
      );
      await recorder.waitFor(101, "deliveries");

      // How many a slow machine handles in that time is not the point.
      const retried = recorder.received.findIndex(({ payload, attempt }) => payload === 1 && attempt === 2);
      assert.ok(retried > 1, "nothing else was handled meanwhile");
    },
  ),

  scenario(
    "R8",
    "a message whose dead letter the broker refuses stays where it is, even when its consumer leaves",
    async (world) => {
      const topic = world.topic<string>();
      const hopeless = (payload: string): void => {
        if (payload === "bad") throw new NonRetryableError("hopeless");
      };
      const first = await world.bus();
      await world.consume(first, topic, withBroker, hopeless);
      const accept = await world.faults.refuseDeadLetters(topic.name, "g");
      try {
        await first.publish(topic, "bad");
        await eventually(() => assert.ok(count(world, "settleFailed") > 0));
        await first.publish(topic, "good");
        await eventually(() => assert.equal(count(world, "handled"), 1));
        await first.close({ timeout: 0 });
      } finally {
        await accept();
      }
      assert.equal(count(world, "deadLettered"), 0);

      const second = await world.bus();
      await world.consume(second, topic, withBroker, hopeless);
      await eventually(() => assert.equal(count(world, "deadLettered"), 1));
      const letters = await Array.fromAsync(second.deadLetters(topic, { group: "g" }).list());
      assert.deepEqual(
        letters.map(({ reason, message }) => [reason, message.payload]),
        [["non-retryable", "bad"]],
      );
    },
  ),

  scenario(
    "R9",
    "an attempt that takes too long is aborted and counts as failed, and what it still returns is ignored",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<string>();
      const late = Promise.withResolvers<unknown>();
      const reasons: unknown[] = [];
      const options = { ...withBroker, timeout: 200, retry: { maxAttempts: 3, backoff: constant(50) } };
      const recorder = await world.consume(bus, topic, options, (_payload, { attempt, signal }) => {
        if (attempt > 1) return;
        signal.addEventListener("abort", () => reasons.push(signal.reason));
        return late.promise;
      });

      await bus.publish(topic, "one");
      await recorder.waitFor(2, "deliveries");
      late.resolve(deadLetter("too late"));
      await eventually(() => assert.equal(count(world, "handled"), 1));

      assert.deepEqual(
        reasons.map((reason) => (reason as { code?: string }).code),
        ["ERR_TIMEOUT"],
      );
      assert.deepEqual(
        recorder.received.map(({ attempt }) => attempt),
        [1, 2],
      );
      assert.equal(count(world, "deadLettered"), 0);
    },
  ),

  scenario("R10", "anything that can be thrown is a failure like any other", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const hostile = Object.defineProperty({}, "message", { get: () => assert.fail("read") });
    const thrown: readonly unknown[] = [
      null,
      undefined,
      "text",
      42,
      Object.freeze({ a: 1 }),
      hostile,
      Symbol("s"),
      new TypeError("t"),
    ];
    const retry = { maxAttempts: 2, backoff: constant(20) };
    const recorder = await world.consume(bus, topic, { ...withBroker, retry }, (payload) => {
      throw thrown[payload];
    });

    await bus.publishAll(topic, [...thrown.keys()]);
    await eventually(() => assert.equal(count(world, "deadLettered"), thrown.length));

    assert.equal(recorder.received.length, thrown.length * 2);
    const letters = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
    assert.equal(letters.length, thrown.length);
    assert.ok(letters.every(({ reason }) => reason === "exhausted"));
  }),
];
