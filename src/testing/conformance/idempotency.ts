/** I: a message that comes again, or twice at once, has one effect. */
import assert from "node:assert/strict";
import { nodeRuntime } from "../../clock.ts";
import type { ConsumeOptions } from "../../consume.ts";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, type World, scenario } from "./scenario.ts";

const retry = { maxAttempts: 3, backoff: constant(20) };
const transactional = {
  group: "g",
  once: "transaction",
  holdBelow: 0,
  retry,
} as unknown as ConsumeOptions<string>;

const count = (world: World, type: string): number =>
  world.events.filter((event) => event.type === type).length;

export const idempotency: readonly Scenario[] = [
  scenario(
    "I1",
    "a message published twice with one id, or one idempotency key, has one effect",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = world.topic<string>();
      await world.consume(bus, topic, transactional, (payload, { tx }) =>
        world.database.addEffect(tx, payload),
      );

      await bus.publish(topic, "one", { id: "id-1" });
      await eventually(() => assert.equal(count(world, "handled"), 1));
      const again = await bus.publish(topic, "one", { id: "id-1" });
      await bus.publish(topic, "two", { idempotencyKey: "key-2" });
      await eventually(() => assert.equal(count(world, "handled"), 2));
      const twice = await bus.publish(topic, "two", { idempotencyKey: "key-2" });
      await bus.publish(topic, "fence");
      await eventually(() => assert.equal(count(world, "handled"), 3));

      assert.deepEqual((await world.database.effects()).toSorted(), ["fence", "one", "two"]);
      // Either the broker did not store it again, or the inbox recognised it.
      const duplicates = [again, twice].filter(({ duplicate }) => duplicate).length;
      await eventually(() => assert.equal(duplicates + count(world, "duplicate"), 2));
    },
  ),

  scenario(
    "I2",
    "two copies of a message in two consumers at the same time have one effect",
    async (world) => {
      const topic = world.topic<string>({ partitions: 4 });
      const first = await world.bus({ store: true });
      const buses = [first, await world.bus({ store: true })];
      const ids = Array.from({ length: 20 }, (_, i) => `message-${i}`);
      for (const bus of buses) {
        await world.consume(bus, topic, transactional, async (payload, { tx }) => {
          await world.database.addEffect(tx, payload);
          await nodeRuntime.sleep(5);
        });
      }

      // Different ids, so that no broker removes them, but one idempotency key: only the inbox can tell.
      await Promise.all(
        ids.flatMap((key) =>
          [0, 1].map((copy) => first.publish(topic, key, { id: `${key}-${copy}`, idempotencyKey: key })),
        ),
      );
      await eventually(async () => assert.equal((await world.database.effects()).length, ids.length));
      await eventually(() => assert.ok(count(world, "handled") >= ids.length));
      await Promise.all(buses.map((bus) => bus.close()));

      assert.deepEqual((await world.database.effects()).toSorted(), ids.toSorted());
    },
  ),

  scenario("I3", "when the first run rolls back, the next one has the effect", async (world) => {
    const bus = await world.bus({ store: true });
    const topic = world.topic<string>();
    await world.consume(bus, topic, transactional, async (payload, { tx, attempt }) => {
      await world.database.addEffect(tx, `${payload} by attempt ${attempt}`);
      if (attempt === 1) throw new Error("rolled back");
    });

    await bus.publish(topic, "one");
    await eventually(() => assert.equal(count(world, "handled"), 1));

    assert.deepEqual(await world.database.effects(), ["one by attempt 2"]);
  }),

  scenario("I5", "a message has its effect once in each group", async (world) => {
    const bus = await world.bus({ store: true });
    const topic = world.topic<string>();
    for (const group of ["a", "b"]) {
      await world.consume(bus, topic, { ...transactional, group }, (payload, { tx }) =>
        world.database.addEffect(tx, `${payload} in ${group}`),
      );
    }

    await bus.publish(topic, "one", { idempotencyKey: "k" });
    await eventually(() => assert.equal(count(world, "handled"), 2));

    assert.deepEqual((await world.database.effects()).toSorted(), ["one in a", "one in b"]);
  }),
];
