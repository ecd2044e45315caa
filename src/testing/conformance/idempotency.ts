/** I: a message that comes again, or twice at once, has one effect. */
import assert from "node:assert/strict";
import { nodeRuntime } from "../../clock.ts";
import type { ConsumeOptions } from "../../consume.ts";
import { StoreError } from "../../errors.ts";
import { constant } from "../../retry/backoff.ts";
import type { Store } from "../../store.ts";
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

  scenario(
    "I6",
    "an inbox that forgets before retries end is warned of, and what it has forgotten runs again",
    async (world) => {
      const store = await world.database.store();
      await store.connect({ runtime: nodeRuntime, emit: () => undefined });
      // What other scenarios left would be purged in the place of its own.
      while ((await store.inbox.purge(0, 1_000)) > 0) continue;
      const bus = await world.bus({ store: true, inboxRetention: "1h" });
      const topic = world.topic<string>();
      const options = { ...transactional, retry: { ...retry, maxAge: "2h" } } as ConsumeOptions<string>;
      await world.consume(bus, topic, options, (payload, { tx }) =>
        world.database.addEffect(tx as never, payload),
      );
      assert.ok(world.events.some((event) => event.type === "warning" && event.code === "INBOX_RETENTION"));

      await bus.publish(topic, "one", { id: "id-1", idempotencyKey: "key" });
      await eventually(() => assert.equal(count(world, "handled"), 1));
      await eventually(async () => assert.ok((await store.inbox.purge(0, 1_000)) > 0));
      await store.close();
      const again = await bus.publish(topic, "one", { id: "id-2", idempotencyKey: "key" });
      await bus.publish(topic, "fence");
      await eventually(() => assert.equal(count(world, "handled"), again.duplicate ? 2 : 3));

      // Where the broker remembers the key, it does so for longer.
      const expected = again.duplicate ? ["fence", "one"] : ["fence", "one", "one"];
      assert.deepEqual((await world.database.effects()).toSorted(), expected);
      assert.equal(again.duplicate, world.capabilities.dedupe);
      assert.equal(count(world, "duplicate"), 0);
    },
  ),

  scenario(
    "I8",
    "while the store refuses, no handler runs, and then each message is handled as if nothing had been",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = world.topic<string>();
      const runs: string[] = [];
      for (const once of ["transaction", "lease"] as const) {
        const options = {
          group: once,
          once,
          holdBelow: 0,
          retry: { maxAttempts: 1 },
        } as unknown as ConsumeOptions<string>;
        await world.consume(
          bus,
          topic,
          options,
          (payload, { attempt }) => void runs.push(`${payload}, ${once}, ${attempt}`),
        );
      }
      await bus.publish(topic, "before");
      await eventually(() => assert.equal(count(world, "handled"), 2));

      const accept = await world.database.refuseInbox();
      try {
        await bus.publish(topic, "one");
        await eventually(() => {
          const refused = world.events.flatMap((event) =>
            event.type === "storeFailed" ? [event.group] : [],
          );
          assert.deepEqual([...new Set(refused)].toSorted(), ["lease", "transaction"]);
        });
        assert.equal(runs.length, 2, "a handler ran without protection");
      } finally {
        await accept();
      }

      await eventually(() => assert.equal(count(world, "handled"), 4));
      assert.deepEqual(runs.slice(2).toSorted(), ["one, lease, 1", "one, transaction, 1"]);
      assert.equal(count(world, "deadLettered"), 0);
    },
  ),

  scenario(
    "I9",
    "a commit whose answer was lost is no failure: whether it took effect or not, the effect is there once",
    async (world) => {
      const bus = await world.bus({ store: losingAnswers });
      const topic = world.topic<string>();
      const options = { ...transactional, retry: { maxAttempts: 1 } } as ConsumeOptions<string>;
      await world.consume(bus, topic, options, (payload, { tx }) =>
        world.database.addEffect(tx as never, payload),
      );

      await bus.publish(topic, "committed");
      await eventually(() => assert.equal(count(world, "duplicate"), 1));
      await bus.publish(topic, "rolled back");
      await eventually(() => assert.equal(count(world, "handled"), 1));

      assert.deepEqual(await world.database.effects(), ["committed", "rolled back"]);
      assert.deepEqual(
        ["storeFailed", "retry", "deadLettered"].map((type) => count(world, type)),
        [2, 0, 0],
      );
    },
  ),
];

/** The store with a connection that breaks at two commits: the first takes effect, the second does not. */
function losingAnswers(store: Store): Store {
  const faults = ["committed", "rolled back"];
  const broken = new StoreError("ERR_STORE", "the connection was lost at the commit", { retryable: true });
  const transaction: Store["transaction"] = async (fn, signal) => {
    let fault: string | undefined;
    const result = await store.transaction(async (tx) => {
      const given = await fn(tx);
      fault = faults.shift();
      if (fault === "rolled back") throw broken;
      return given;
    }, signal);
    if (fault === "committed") throw broken;
    return result;
  };
  return { ...store, transaction };
}
