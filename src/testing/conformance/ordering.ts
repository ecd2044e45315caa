/** O: order per key, for consumers that ask for it. */
import assert from "node:assert/strict";
import type { Bus } from "../../bus.ts";
import { nodeRuntime } from "../../clock.ts";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, type World, scenario } from "./scenario.ts";

interface Step {
  readonly key: string;
  readonly n: number;
}

const keys = Array.from({ length: 16 }, (_, i) => `key-${i}`);

const unsupported: Scenario["unsupported"] = ({ ordering }) =>
  ordering === "key" ? undefined : "the adapter does not keep order per key";

/** A group whose instances come and go while messages of all keys keep coming. */
interface Crew {
  /** The numbers handled of each key, in the order that happened. */
  readonly handled: ReadonlyMap<string, readonly number[]>;
  /** Starts an instance on a bus of its own. */
  join(): Promise<Instance>;
  /** Sends no more; resolves with how many steps of each key were sent. */
  finish(): Promise<number>;
}

interface Instance {
  /** Resolves when it has handled something that was sent after this call. */
  getsItsShare(): Promise<void>;
  leave(): Promise<void>;
}

/** The inbox takes out what comes twice because an instance left before its acks were taken. */
async function underLoad(world: World, prefetch: number): Promise<Crew> {
  const topic = world.topic<Step>({ key: ({ key }) => key, partitions: 8 });
  const sender = await world.bus();
  await sender.declare({ groups: { g: [topic] } });
  const handled = new Map(keys.map((key) => [key, [] as number[]]));
  let sent = 0;
  let done = 0;
  let sending = true;
  const flow = (async () => {
    while (sending) {
      await sender.publishAll(
        topic,
        keys.map((key): Step => ({ key, n: sent })),
      );
      sent += 1;
      while (sending && sent * keys.length - done > 10 * keys.length) await nodeRuntime.sleep(1);
    }
  })();
  // Awaited at the end; until then its failure must not end the process.
  flow.catch(() => undefined);
  return {
    handled,
    async join() {
      const bus = await world.bus({ store: true });
      let newest = -1;
      const options = { group: "g", order: "key", concurrency: 8, prefetch } as const;
      const { consumer } = await world.consume(bus, topic, options, async ({ key, n }) => {
        await nodeRuntime.sleep(1);
        handled.get(key)?.push(n);
        done += 1;
        newest = Math.max(newest, n);
      });
      return {
        async getsItsShare() {
          const from = sent;
          await eventually(() => assert.ok(newest > from, "an instance was given nothing new"), 30_000);
        },
        leave: () => consumer.close(),
      };
    },
    async finish() {
      sending = false;
      await flow;
      return sent;
    },
  };
}

async function assertAllInOrder(crew: Crew): Promise<void> {
  const { handled } = crew;
  const sent = await crew.finish();
  const complete = (): void => {
    for (const [key, numbers] of handled)
      assert.equal(new Set(numbers).size, sent, `${key} is not handled to its end`);
  };
  await eventually(complete, 30_000);
  for (const [key, numbers] of handled) assert.deepEqual(numbers, [...Array(sent).keys()], key);
}

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

  scenario(
    "O7",
    "while three instances join and leave, each key is handled in order, and nothing is missed",
    async (world) => {
      const crew = await underLoad(world, 32);
      const progress = async (): Promise<void> => {
        const before = Math.max(...Array.from(crew.handled.values(), (numbers) => numbers.length));
        await eventually(() => {
          for (const [key, { length }] of crew.handled) assert.ok(length > before, `${key} stands still`);
        }, 30_000);
      };

      const first = await crew.join();
      await progress();
      const second = await crew.join();
      await progress();
      const third = await crew.join();
      await progress();
      await first.leave();
      await progress();
      const fourth = await crew.join();
      await second.leave();
      await progress();
      await third.leave();
      await progress();
      await assertAllInOrder(crew);
      await fourth.leave();
    },
    unsupported,
  ),

  scenario(
    "O8",
    "instances share the keys: each that joins gets some, whoever is there goes on, and the order holds",
    async (world) => {
      // No two of them have room for all keys.
      const crew = await underLoad(world, 4);
      const instances: Instance[] = [];
      for (let count = 1; count <= 3; count++) {
        instances.push(await crew.join());
        for (const instance of instances) await instance.getsItsShare();
      }
      await instances.shift()?.leave();
      for (const instance of instances) await instance.getsItsShare();
      await assertAllInOrder(crew);
    },
    unsupported,
  ),
];
