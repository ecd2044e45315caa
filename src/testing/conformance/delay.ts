/** L: a delayed message comes no earlier than asked for, and a delay that is none is refused. */
import assert from "node:assert/strict";
import { MessagingError } from "../../errors.ts";
import { nodeRuntime } from "../../clock.ts";
import { retryAfter } from "../../outcome.ts";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, scenario } from "./scenario.ts";

export const delay: readonly Scenario[] = [
  scenario("L1", "a delayed message comes, and not before its delay has passed", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const sent = new Map<number, number>();
    const waited = new Map<number, number>();
    const recorder = await world.consume(bus, topic, { group: "g", holdBelow: 0 }, (ms) => {
      waited.set(ms, performance.now() - (sent.get(ms) ?? 0));
    });

    const delays = [0, 1, 400, 1_700];
    for (const ms of delays) {
      sent.set(ms, performance.now());
      await bus.publish(topic, ms, { delay: ms });
    }
    await recorder.waitFor(delays.length);

    await eventually(() => assert.equal(waited.size, delays.length));
    for (const ms of delays)
      assert.ok((waited.get(ms) ?? 0) >= ms - 5, `${ms} ms came after ${waited.get(ms)} ms`);
    assert.equal(recorder.received.length, delays.length);
    assert.ok(
      recorder.received.every(({ attempt }) => attempt === 1),
      "waiting counted as an attempt",
    );
  }),

  scenario(
    "L2",
    "a delayed message outlives the process that sent it, and the broker's restart",
    async (world) => {
      const topic = world.topic<string>();
      const first = await world.bus();
      await first.declare({ groups: { g: [topic] } });
      // A quorum queue is safe from kill -9 only about a second after it was declared.
      const ready = await world.consume(first, topic, { group: "g" });
      await first.publish(topic, "warm-up", { delay: "1500ms" });
      await ready.waitFor(1);
      const sent = performance.now();
      await first.publish(topic, "one", { delay: "4s" });
      await first.close();
      if (world.capabilities.server) await world.faults.restartBroker();

      const second = await world.bus();
      const after = await world.consume(second, topic, { group: "g" });
      await after.waitFor(1);

      assert.equal(after.received[0]?.payload, "one");
      assert.ok(performance.now() - sent >= 3_995, "it came too early");
    },
  ),

  scenario(
    "L7",
    "a delayed message that is cancelled in time reaches no group, and its id may be used again",
    async (world) => {
      const topic = world.topic<string>({ key: () => "k", partitions: 1 });
      const [bus, other] = [await world.bus(), await world.bus()];
      await bus.publish(topic, "before any group", { id: "early", delay: "1m" });
      assert.equal(await other.cancel(topic, "early"), true);
      const [first, second] = [
        await world.consume(bus, topic, { group: "first", order: "key" }),
        await world.consume(other, topic, { group: "second" }),
      ];

      const wait = { delay: "1500ms" } as const;
      await bus.publish(topic, "cancelled", { ...wait, id: "one", idempotencyKey: "order-1" });
      await bus.publish(topic, "kept", { ...wait, id: "two" });
      await bus.publish(topic, "far away", { id: "three", delay: "1h" });
      await bus.publish(topic, "behind it in its key", { id: "four" });
      // From another bus: it is the broker that knows.
      assert.deepEqual(
        [await other.cancel(topic, "one"), await other.cancel(topic, "one"), await bus.cancel(topic, "none")],
        [true, false, false],
      );
      assert.equal(await bus.cancel(topic, "three"), true);
      const again = await bus.publish(topic, "again", { id: "one", idempotencyKey: "order-1" });
      assert.equal(again.duplicate, false);

      for (const recorder of [first, second]) {
        await recorder.waitFor(3);
        assert.deepEqual(recorder.received.map(({ payload }) => payload).toSorted(), [
          "again",
          "behind it in its key",
          "kept",
        ]);
      }
      assert.equal(await bus.cancel(topic, "two"), false);
    },
    ({ cancel }) => (cancel ? undefined : "the broker cannot take a delayed message back (L9)"),
  ),

  scenario(
    "L8",
    "what waits for its retry cannot be cancelled: it has come already",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<string>();
      const retry = { maxAttempts: 2, backoff: constant("1s") };
      const recorder = await world.consume(
        bus,
        topic,
        { group: "g", holdBelow: 0, retry },
        (_, { attempt }) => {
          if (attempt === 1) throw new Error("later");
        },
      );

      await bus.publish(topic, "one", { id: "one", delay: 100 });
      await eventually(() => assert.ok(world.events.some(({ type }) => type === "retry")));
      assert.equal(await bus.cancel(topic, "one"), false);

      await recorder.waitFor(2, "deliveries");
      assert.equal(recorder.received[1]?.attempt, 2);
    },
    ({ cancel }) => (cancel ? undefined : "the broker cannot take a delayed message back (L9)"),
  ),

  scenario(
    "L9",
    "where the broker cannot take a delayed message back, cancelling is refused",
    async (world) => {
      const bus = await world.bus();
      await assert.rejects(
        bus.cancel(world.topic<string>(), "one"),
        (error) => MessagingError.is(error) && error.code === "ERR_CAPABILITY",
      );
    },
    ({ cancel }) => (cancel ? "it can (L7)" : undefined),
  ),

  scenario("L4", "a delay that is none is refused before anything is sent", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const recorder = await world.consume(bus, topic, { group: "g" });

    for (const delay of [-1, NaN, Infinity, "10 parsecs" as "10s", null as unknown as number]) {
      await assert.rejects(
        bus.publish(topic, 1, { delay }),
        (error) => MessagingError.is(error) && error.code === "ERR_DELAY",
      );
    }
    await bus.publish(topic, 2, { delay: 0 });
    await recorder.waitFor(1);

    assert.deepEqual(
      recorder.received.map(({ payload }) => payload),
      [2],
    );
  }),

  scenario(
    "L3",
    "a delay longer than the broker can keep is refused at once when sent, and made of several when retried",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<string>();
      const { maxDelayMs } = world.capabilities;
      const day = 86_400_000;
      const recorder = await world.consume(
        bus,
        topic,
        { group: "g", holdBelow: 0, retry: { maxAge: "365d" } },
        (payload) => (payload === "retried" ? retryAfter(Math.min(maxDelayMs + day, 364 * day)) : undefined),
      );

      await assert.rejects(
        bus.publish(topic, "refused", { delay: maxDelayMs + 1 }),
        (error) => MessagingError.is(error) && ["ERR_DELAY", "ERR_CAPABILITY"].includes(error.code),
      );
      await bus.publish(topic, "longest", { delay: maxDelayMs });
      await bus.publish(topic, "retried");
      await eventually(() => assert.equal(world.events.filter(({ type }) => type === "retry").length, 1));
      await bus.publish(topic, "fence", { delay: "1s" });
      await eventually(() => assert.ok(recorder.received.some(({ payload }) => payload === "fence")));

      assert.deepEqual(recorder.received.map(({ payload }) => payload).toSorted(), ["fence", "retried"]);
      assert.equal(
        world.events.filter(({ type }) => type === "deadLettered" || type === "settleFailed").length,
        0,
      );
    },
  ),

  scenario(
    "L5",
    "of a thousand messages with delays in no order all come, none before its time, in about the order they are due",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<number>();
      const delayOf = (n: number): number => 500 + ((n * 7_919) % 1_000) * 4;
      const due: { earliest: number; latest: number }[] = [];
      const early: number[] = [];
      const recorder = await world.consume(bus, topic, { group: "g", holdBelow: 0, concurrency: 50 }, (n) => {
        if (nodeRuntime.monotonic() < (due[n]?.earliest ?? Infinity) - 5) early.push(n);
      });

      const count = 1_000;
      const publish = async (n: number): Promise<void> => {
        const at = { earliest: nodeRuntime.monotonic() + delayOf(n), latest: Infinity };
        due[n] = at;
        await bus.publish(topic, n, { delay: delayOf(n) });
        at.latest = nodeRuntime.monotonic() + delayOf(n);
      };
      await Promise.all(Array.from({ length: count }, (_, n) => publish(n)));
      await recorder.waitFor(count);

      assert.deepEqual(early, []);
      assert.equal(recorder.received.length, count);
      const toleranceMs = 2_000;
      let highest = 0;
      for (const { payload } of recorder.received) {
        const { earliest, latest } = due[payload] ?? assert.fail(`${payload} was never sent`);
        assert.ok(
          highest <= latest + toleranceMs,
          `${payload} was overtaken by one due ${highest - latest} ms later`,
        );
        highest = Math.max(highest, earliest);
      }
    },
  ),
];
