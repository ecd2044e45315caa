/** A: a delivery is settled once, by its outcome, and comes again when it was not. */
import assert from "node:assert/strict";
import { deadLetter } from "../../outcome.ts";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, scenario } from "./scenario.ts";

const retry = { maxAttempts: 3, backoff: constant(50) };

export const settling: readonly Scenario[] = [
  scenario("A1", "a handled message does not come again after a reconnect", async (world) => {
    const topic = world.topic<string>();
    const first = await world.bus();
    const before = await world.consume(first, topic, { group: "g" });
    await first.publish(topic, "one");
    await before.waitFor(1);
    await first.close();

    const second = await world.bus();
    const after = await world.consume(second, topic, { group: "g" });
    await second.publish(topic, "fence");
    await after.waitFor(1);

    assert.deepEqual(
      after.received.map(({ payload }) => payload),
      ["fence"],
    );
  }),

  scenario("A2", "a throw means another attempt, with its number raised", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<string>();
    const recorder = await world.consume(
      bus,
      topic,
      { group: "g", holdBelow: 0, retry },
      (_payload, { attempt }) => {
        if (attempt === 1) throw new Error("once");
      },
    );

    await bus.publish(topic, "one");
    await recorder.waitFor(2, "deliveries");

    assert.deepEqual(
      recorder.received.map(({ attempt }) => attempt),
      [1, 2],
    );
    assert.equal(recorder.ids().length, 1);
  }),

  scenario(
    "A3",
    "a message under way when the connection is lost comes again, or stays ours and is settled",
    async (world) => {
      const topic = world.topic<string>();
      const bus = await world.bus();
      let release = (): void => undefined;
      const held = new Promise<void>((resolve) => (release = resolve));
      const recorder = await world.consume(
        bus,
        topic,
        { group: "g", lease: "2s", once: false },
        async (_payload, { attempt }) => {
          if (attempt === 1 && recorder.received.length === 1) await held;
        },
      );
      const { id } = await bus.publish(topic, "one");
      await recorder.waitFor(1);

      await world.faults.cutConnections();
      // Consuming again: where deliveries belong to a connection, the first has come again by now, or will.
      await bus.publish(topic, "fence");
      await recorder.waitFor(2);
      release();

      const count = (type: "handled" | "staleSettle"): number =>
        world.events.filter((event) => event.type === type && "messageId" in event && event.messageId === id)
          .length;
      await eventually(() => {
        assert.equal(count("handled"), 1, "the message was neither settled nor handed over again");
        const deliveries = recorder.received.filter((one) => one.id === id).length;
        assert.equal(deliveries, 1 + count("staleSettle"), "it was settled, but came again all the same");
      });
    },
    ({ server, deliveryCount }) => (server || deliveryCount ? undefined : "no connection to lose"),
  ),

  scenario("A4", "settling a delivery twice disturbs nothing", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    // A handler that is still running when its attempt has timed out settles for the second time when it ends.
    let finish = (): void => undefined;
    const held = new Promise<void>((resolve) => (finish = resolve));
    const recorder = await world.consume(
      bus,
      topic,
      { group: "g", timeout: 100, retry: { maxAttempts: 2, backoff: constant(0) } },
      (payload, { attempt }) => (payload === 0 && attempt === 1 ? held : undefined),
    );

    await bus.publish(topic, 0);
    await recorder.waitFor(2, "deliveries");
    finish();
    await bus.publishAll(topic, [1, 2, 3]);
    await recorder.waitFor(4);

    const handled = (): number => world.events.filter(({ type }) => type === "handled").length;
    await eventually(() => assert.equal(handled(), 4));
    assert.equal(recorder.received.length, 5);
  }),

  scenario("A5", "a message the handler gives up is dead-lettered exactly once", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<string>();
    const recorder = await world.consume(bus, topic, { group: "g" }, () => deadLetter("no such customer"));

    await bus.publish(topic, "one");
    await recorder.waitFor(1);

    const letters = await eventually(async () => {
      const found = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
      assert.equal(found.length, 1);
      return found;
    });
    assert.equal(letters[0]?.reason, "no such customer");
    assert.equal(letters[0]?.attempts, 1);
    assert.equal(recorder.received.length, 1);
  }),

  scenario(
    "A6",
    "a message that was overtaken by a later one is not lost when its process goes",
    async (world) => {
      const topic = world.topic<number>();
      const first = await world.bus();
      const before = await world.consume(
        first,
        topic,
        { group: "g", concurrency: 4, lease: "2s" },
        (payload) => (payload === 1 ? new Promise(() => undefined) : undefined),
      );
      await first.publishAll(topic, [1, 2, 3]);
      await before.waitFor(3);
      await eventually(() => assert.equal(world.events.filter(({ type }) => type === "handled").length, 2));
      await first.close({ timeout: 0 });

      const second = await world.bus();
      const after = await world.consume(second, topic, { group: "g", lease: "2s" });
      await eventually(() => assert.ok(after.received.some(({ payload }) => payload === 1)));
    },
  ),

  scenario(
    "A8",
    "a handler that runs longer than its lease keeps its message: nobody else gets it",
    async (world) => {
      const topic = world.topic<string>({ partitions: 1 });
      const [first, second] = [await world.bus(), await world.bus()];
      const longEnough = Promise.withResolvers<void>();
      const options = { group: "g", lease: "1s", concurrency: 2 } as const;
      const handle = (payload: string): unknown => {
        if (payload === "later") return longEnough.resolve();
        return longEnough.promise;
      };
      const a = await world.consume(first, topic, options, handle);
      const b = await world.consume(second, topic, options, handle);

      await first.publish(topic, "long");
      // Its coming says that three leases' time has passed, by the broker's clock.
      await first.publish(topic, "later", { delay: "3s" });
      await eventually(() => {
        assert.equal(world.events.filter(({ type }) => type === "handled").length, 2);
      });

      const runs = [...a.received, ...b.received].filter(({ payload }) => payload === "long").length;
      assert.equal(runs, 1);
      assert.equal(world.events.filter(({ type }) => type === "staleSettle").length, 0);
    },
  ),

  scenario(
    "A9",
    "a message whose connection is lost before it could be acknowledged has one effect",
    async (world) => {
      const topic = world.topic<string>();
      const bus = await world.bus({ store: true });
      const finish = Promise.withResolvers<void>();
      const options = { group: "g", once: "lease", lease: "2s" } as const;
      const recorder = await world.consume(bus, topic, options, (payload) =>
        payload === "one" ? finish.promise : undefined,
      );
      const { id } = await bus.publish(topic, "one");
      await recorder.waitFor(1);

      await world.faults.cutConnections();
      await bus.publish(topic, "fence");
      await recorder.waitFor(2);
      finish.resolve();

      await eventually(() => {
        const ends = world.events.filter(
          (event) => (event.type === "handled" || event.type === "duplicate") && event.messageId === id,
        );
        assert.ok(ends.length > 0, "its acknowledgement was neither kept nor made up for");
      });
      assert.equal(recorder.received.filter((one) => one.id === id).length, 1);
    },
  ),

  scenario(
    "A10",
    "an acknowledgement that fails is no failure of the message: its attempts stay as many",
    async (world) => {
      const topic = world.topic<string>();
      const bus = await world.bus();
      const finish = Promise.withResolvers<void>();
      const options = {
        group: "g",
        lease: "2s",
        once: false,
        holdBelow: 0,
        retry: { maxAttempts: 2, backoff: constant(20) },
      } as const;
      const runs: string[] = [];
      const recorder = await world.consume(bus, topic, options, async (payload) => {
        if (payload === "fence") return;
        runs.push("run");
        if (runs.length === 1) await finish.promise;
        // The one failure that a second delivery has: with the lost acknowledgement for another, it would be the last.
        if (runs.length === 2) throw new Error("once");
      });
      const { id } = await bus.publish(topic, "one");
      await recorder.waitFor(1);

      await world.faults.cutConnections();
      await bus.publish(topic, "fence");
      await recorder.waitFor(2);
      finish.resolve();

      const count = (type: string): number =>
        world.events.filter((event) => event.type === type && "messageId" in event && event.messageId === id)
          .length;
      await eventually(() => assert.equal(count("handled"), 1));
      assert.equal(count("deadLettered"), 0);
      assert.equal(count("retry"), runs.length > 1 ? 1 : 0);
    },
    ({ server, deliveryCount }) => (server || deliveryCount ? undefined : "no connection to lose"),
  ),
];
