/** G: consumers of one group share the messages, each group gets them all. */
import assert from "node:assert/strict";
import type { Bus } from "../../bus.ts";
import { nodeRuntime } from "../../clock.ts";
import type { ConsumeOptions } from "../../consume.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, scenario } from "./scenario.ts";

export const groups: readonly Scenario[] = [
  scenario("G1", "two consumers of one group handle all messages, none of them twice", async (world) => {
    const [first, second] = [await world.bus(), await world.bus()];
    const topic = world.topic<number>({ partitions: 4 });
    const a = await world.consume(first, topic, { group: "g", prefetch: 10, concurrency: 10 });
    const b = await world.consume(second, topic, { group: "g", prefetch: 10, concurrency: 10 });

    await first.publishAll(topic, [...Array(1_000).keys()]);
    await eventually(() => assert.equal(new Set([...a.ids(), ...b.ids()]).size, 1_000), 30_000);

    const all = [...a.received, ...b.received].map(({ payload }) => payload);
    assert.equal(new Set(all).size, 1_000);
    assert.equal(all.length, 1_000, "a message was handled twice without any fault");
  }),

  scenario("G2", "each of two groups gets every message", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const a = await world.consume(bus, topic, { group: "a" });
    const b = await world.consume(bus, topic, { group: "b" });

    await bus.publishAll(topic, [...Array(1_000).keys()]);
    await Promise.all([a.waitFor(1_000), b.waitFor(1_000)]);

    for (const recorder of [a, b]) {
      assert.equal(new Set(recorder.received.map(({ payload }) => payload)).size, 1_000);
    }
  }),

  scenario("G3", "a consumer that joins under load gets its share", async (world) => {
    const [first, second] = [await world.bus(), await world.bus()];
    const topic = world.topic<number>({ partitions: 4 });
    const few = { group: "g", prefetch: 4, concurrency: 4 };
    // All places of the first are taken until the newcomer has had one.
    const joined = Promise.withResolvers<void>();
    let handed = 0;
    const a = await world.consume(first, topic, few, () => {
      handed += 1;
      return handed < 40 ? undefined : joined.promise;
    });
    await first.publishAll(topic, [...Array(200).keys()]);
    await a.waitFor(40);

    const b = await world.consume(second, topic, few, () => joined.resolve());
    await b.waitFor(1);

    await eventually(() => assert.equal(new Set([...a.ids(), ...b.ids()]).size, 200), 30_000);
  }),

  scenario("G4", "what a leaving consumer had, and would have had, the others handle", async (world) => {
    const [first, second] = [await world.bus(), await world.bus()];
    const topic = world.topic<number>({ partitions: 4 });
    const few = { group: "g", prefetch: 10, concurrency: 5 };
    const handled = new Set<number>();
    const handle = (payload: number): void => void handled.add(payload);
    const a = await world.consume(first, topic, few, handle);
    await world.consume(second, topic, few, handle);
    await first.publishAll(topic, [...Array(300).keys()]);
    await a.waitFor(1);

    await a.consumer.close();
    await second.publishAll(
      topic,
      Array.from({ length: 100 }, (_, i) => 300 + i),
    );

    await eventually(() => assert.equal(handled.size, 400), 30_000);
  }),

  scenario("G5", "groups of one name on two topics have nothing in common", async (world) => {
    const bus = await world.bus();
    const [one, other] = [world.topic<number>(), world.topic<number>()];
    await bus.declare({ groups: { g: [one, other] } });
    await bus.publishAll(one, [...Array(50).keys()]);
    await bus.publishAll(
      other,
      Array.from({ length: 50 }, (_, i) => 100 + i),
    );

    const first = await world.consume(bus, one, { group: "g" });
    await first.waitFor(50);
    const second = await world.consume(bus, other, { group: "g" });
    await second.waitFor(50);

    assert.ok(first.received.every(({ payload }) => payload < 100));
    assert.ok(second.received.every(({ payload }) => payload >= 100));
  }),

  scenario(
    "G6",
    "consumers that come and go while handlers run lose nothing, and no effect happens twice",
    async (world) => {
      const topic = world.topic<string>({ partitions: 4 });
      const sender = await world.bus();
      await sender.declare({ groups: { g: [topic] } });
      const sent = Array.from({ length: 300 }, (_, n) => `message-${n}`);
      await sender.publishAll(topic, sent);
      const transactional = { group: "g", once: "transaction", concurrency: 4, prefetch: 8 };
      let running = 0;
      const join = async (): Promise<Bus> => {
        const bus = await world.bus({ store: true });
        const options = transactional as unknown as ConsumeOptions<string>;
        await world.consume(bus, topic, options, async (payload, { tx }) => {
          running += 1;
          await world.database.addEffect(tx, payload);
          await nodeRuntime.sleep(5);
          running -= 1;
        });
        return bus;
      };
      const busy = (): Promise<void> => eventually(() => assert.ok(running > 0));

      const first = await join();
      await busy();
      const second = await join();
      await busy();
      await first.close({ timeout: 0 });
      await join();
      await busy();
      await second.close({ timeout: 0 });

      await eventually(async () => {
        const effects = await world.database.effects();
        assert.equal(new Set(effects).size, sent.length);
      }, 60_000);
      assert.deepEqual((await world.database.effects()).toSorted(), sent.toSorted());
      assert.deepEqual(await Array.fromAsync(sender.deadLetters(topic, { group: "g" }).list()), []);
    },
  ),

  scenario(
    "G7",
    "settling what has gone to another consumer is reported as stale, and takes nothing from that one",
    async (world) => {
      const topic = world.topic<string>();
      const buses = [await world.bus()];
      const holders: Bus[] = [];
      const join = (bus: Bus): Promise<unknown> =>
        world.consume(bus, topic, { group: "g", lease: "2s", once: false }, async (_payload, { signal }) => {
          holders.push(bus);
          // The first two keep it until it is no longer theirs, and end as if nothing had been.
          if (holders.length <= 2 && !signal.aborted)
            await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
        });
      await join(buses[0] as Bus);
      const { id } = await (buses[0] as Bus).publish(topic, "one");
      await eventually(() => assert.equal(holders.length, 1));

      await world.faults.stallConnections();
      for (let i = 0; i < 2; i++) {
        const bus = await world.bus();
        buses.push(bus);
        await join(bus);
      }
      await eventually(() => assert.ok(holders.length >= 2, "it went to nobody else"), 90_000);
      const count = (type: string): number =>
        world.events.filter((event) => event.type === type && "messageId" in event && event.messageId === id)
          .length;
      await eventually(() => assert.ok(count("staleSettle") >= 1, "nothing was reported"), 60_000);
      assert.equal(count("handled"), 0);
      // If the first had settled it after all, it would not come again now.
      await holders[1]?.close({ timeout: 0 });
      await eventually(() => assert.equal(count("handled"), 1), 60_000);
    },
    ({ server }) => (server ? undefined : "no connection to lose"),
  ),
];
