/** O: order per key, for consumers that ask for it. */
import assert from "node:assert/strict";
import type { Bus } from "../../bus.ts";
import { nodeRuntime } from "../../clock.ts";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, scenario } from "./scenario.ts";

interface Step {
  readonly key: string;
  readonly n: number;
}

const keys = Array.from({ length: 16 }, (_, i) => `key-${i}`);

const unsupported: Scenario["unsupported"] = ({ ordering }) =>
  ordering === "key" ? undefined : "the adapter does not keep order per key";

export const ordering: readonly Scenario[] = [
  scenario(
    "O1",
    "messages of one key are handled in the order they were sent, also when some fail and are retried",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<Step>({ key: ({ key }) => key, partitions: 4 });
      const handled = new Map<string, number[]>();
      const recorder = await world.consume(
        bus,
        topic,
        { group: "g", order: "key", concurrency: 8, retry: { maxAttempts: 5, backoff: () => 5 } },
        ({ key, n }, { attempt }) => {
          if (n % 40 === 7 && attempt < 3) throw new Error("not yet");
          handled.set(key, [...(handled.get(key) ?? []), n]);
        },
      );

      const steps = Array.from({ length: 100 }, (_, n) => keys.map((key): Step => ({ key, n }))).flat();
      await bus.publishAll(topic, steps);
      await recorder.waitFor(1_600);
      await recorder.waitFor(1_600 + keys.length * 3 * 2, "deliveries");

      for (const key of keys) assert.deepEqual(handled.get(key), [...Array(100).keys()], key);
    },
    unsupported,
  ),

  scenario(
    "O2",
    "a message out of attempts blocks its key, over a restart too, until it succeeds; other keys go on",
    async (world) => {
      const topic = world.topic<Step>({ key: ({ key }) => key, partitions: 4 });
      const retry = { maxAttempts: 2, backoff: constant(20) };
      const options = { group: "g", order: "key", onExhausted: "block", retry } as const;
      const handled: string[] = [];
      const consume = async (mended: boolean): Promise<Bus> => {
        const bus = await world.bus();
        await world.consume(bus, topic, options, ({ key, n }) => {
          if (key === "bad" && n === 0 && !mended) throw new Error("not now");
          handled.push(`${key}-${n}`);
        });
        return bus;
      };
      const lanes = (bus: Bus): string | undefined => bus.health().checks[`lanes ${topic.name}--g`]?.status;
      const good = Array.from({ length: 40 }, (_, n): Step => ({ key: `good-${n % 8}`, n }));
      const bad = Array.from({ length: 3 }, (_, n): Step => ({ key: "bad", n }));

      const first = await consume(false);
      await first.publishAll(topic, [...bad, ...good]);
      await eventually(() => assert.equal(handled.length, good.length));
      // The second time: it was tried on after it had run out of attempts.
      const blocked = (): number => world.events.filter(({ type }) => type === "blocked").length;
      await eventually(() => assert.ok(blocked() >= 2));
      assert.equal(lanes(first), "down");
      assert.equal(first.health().ready, true);
      await first.close();

      const second = await consume(false);
      const before = blocked();
      await eventually(() => assert.ok(blocked() > before), 60_000);
      await second.close({ timeout: 0 });
      assert.deepEqual(
        handled.filter((name) => name.startsWith("bad")),
        [],
      );

      const third = await consume(true);
      await eventually(() => assert.equal(handled.length, good.length + bad.length), 60_000);
      assert.deepEqual(handled.slice(-3), ["bad-0", "bad-1", "bad-2"]);
      assert.equal(lanes(third), "up");
      assert.ok(!world.events.some(({ type }) => type === "deadLettered"));
    },
    unsupported,
  ),

  scenario(
    "O4",
    "no two handlers of one key overlap, while different keys run side by side",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<Step>({ key: ({ key }) => key, partitions: 4 });
      const running = new Map<string, number>();
      let most = 0;
      let overlaps = 0;
      const recorder = await world.consume(
        bus,
        topic,
        { group: "g", order: "key", concurrency: 8 },
        async ({ key }) => {
          running.set(key, (running.get(key) ?? 0) + 1);
          most = Math.max(
            most,
            [...running.values()].reduce((sum, n) => sum + n, 0),
          );
          if ((running.get(key) ?? 0) > 1) overlaps += 1;
          await nodeRuntime.sleep(1);
          running.set(key, (running.get(key) ?? 0) - 1);
        },
      );

      const steps = Array.from({ length: 20 }, (_, n) => keys.map((key): Step => ({ key, n }))).flat();
      await bus.publishAll(topic, steps);
      await recorder.waitFor(320);

      assert.equal(overlaps, 0);
      assert.ok(most > 1, "keys did not run side by side");
    },
    unsupported,
  ),

  scenario(
    "O3",
    "a message that is dead-lettered leaves the others of its key in their order",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<Step>({ key: ({ key }) => key, partitions: 4 });
      const handled = new Map<string, number[]>();
      const retry = { maxAttempts: 3, backoff: () => 10 };
      const options = { group: "g", order: "key", concurrency: 8, retry } as const;
      await world.consume(bus, topic, options, ({ key, n }) => {
        if (n === 5) throw new Error("never");
        handled.set(key, [...(handled.get(key) ?? []), n]);
      });

      await bus.publishAll(
        topic,
        Array.from({ length: 20 }, (_, n) => keys.map((key): Step => ({ key, n }))).flat(),
      );

      const count = (type: string): number => world.events.filter((event) => event.type === type).length;
      await eventually(() => assert.deepEqual([count("handled"), count("deadLettered")], [304, 16]), 30_000);
      const rest = [...Array(20).keys()].filter((n) => n !== 5);
      for (const key of keys) assert.deepEqual(handled.get(key), rest, key);
    },
    unsupported,
  ),

  scenario(
    "O5",
    "messages of one key keep their order although the connections of their sender are reset",
    async (world) => {
      const bus = await world.bus({ publishTimeout: "60s" });
      const topic = world.topic<Step>({ key: ({ key }) => key, partitions: 4 });
      const recorder = await world.consume(bus, topic, {
        group: "g",
        order: "key",
        concurrency: 8,
        lease: "3s",
      });
      await bus.publish(topic, { key: "warm-up", n: -1 });
      await recorder.waitFor(1);

      const sending: Promise<unknown>[] = [];
      for (let n = 0; n < 100; n++) {
        // Nobody waits for the one before: many of a key are under way when the connections go.
        for (const key of keys) sending.push(bus.publish(topic, { key, n }));
        if (n % 40 === 20) await world.faults.cutConnections();
        else if (n % 10 === 0) await Promise.race(sending.slice(-1));
      }
      await Promise.all(sending);
      await recorder.waitFor(1 + 1_600);

      for (const key of keys) {
        const order = recorder.received
          .filter(({ payload }) => payload.key === key)
          .map(({ payload }) => payload.n);
        assert.deepEqual([...new Set(order)], [...Array(100).keys()], key);
      }
    },
    unsupported,
  ),

  scenario(
    "O6",
    "asking for order of an adapter that keeps none is refused at start",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<Step>({ key: ({ key }) => key });

      await assert.rejects(world.consume(bus, topic, { group: "g", order: "key" }), {
        code: "ERR_CAPABILITY",
      });
    },
    ({ ordering }) => (ordering === "key" ? "it keeps order per key (O1)" : undefined),
  ),
];
