/** B: a message published in a transaction leaves if and only if it commits. */
import assert from "node:assert/strict";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, type World, scenario } from "./scenario.ts";

const group = "g";

/** A bus over the database with a relay, a topic, and a consumer that records. */
async function pipeline(world: World): Promise<{
  bus: Awaited<ReturnType<World["bus"]>>;
  topic: ReturnType<typeof world.topic<string>>;
  recorder: Awaited<ReturnType<typeof world.consume<string>>>;
}> {
  const bus = await world.bus({ store: true });
  const topic = world.topic<string>();
  const recorder = await world.consume(bus, topic, { group });
  bus.relay();
  return { bus, topic, recorder };
}

export const outbox: readonly Scenario[] = [
  scenario("B1", "what was published in a transaction that rolls back never leaves", async (world) => {
    const { bus, topic, recorder } = await pipeline(world);

    const rolledBack = await world.database.begin();
    await bus.outbox(rolledBack.handle).publish(topic, "ghost");
    await rolledBack.rollback();
    const committed = await world.database.begin();
    await bus.outbox(committed.handle).publish(topic, "fence");
    await committed.commit();
    await recorder.waitFor(1);

    assert.deepEqual(
      recorder.received.map(({ payload }) => payload),
      ["fence"],
    );
  }),

  scenario(
    "B2",
    "what was published in a transaction that commits is received, as it was sent",
    async (world) => {
      const { bus, topic, recorder } = await pipeline(world);

      const transaction = await world.database.begin();
      const receipt = await bus.outbox(transaction.handle).publish(topic, "é 漢 🚀 '\" $1 ? \\u0000", {
        key: "k",
        headers: { tenant: "acme" },
        idempotencyKey: "once",
      });
      await transaction.commit();
      await recorder.waitFor(1);

      assert.equal(receipt.durability, "outbox");
      const { message } = recorder.received[0]?.context ?? assert.fail("nothing came");
      assert.equal(message.id, receipt.id);
      assert.deepEqual(
        [message.payload, message.key, message.idempotencyKey],
        ["é 漢 🚀 '\" $1 ? \\u0000", "k", "once"],
      );
      assert.deepEqual({ ...message.headers }, { tenant: "acme" });
    },
  ),

  scenario("B3", "with two relays every row is published, and without faults none twice", async (world) => {
    const [first, second] = [await world.bus({ store: true }), await world.bus({ store: true })];
    const topic = world.topic<number>();
    const recorder = await world.consume(first, topic, { group, once: false, concurrency: 100 });
    first.relay();
    second.relay();
    const rows = 2_000;

    for (let n = 0; n < rows; n += 500) {
      const transaction = await world.database.begin();
      await first.outbox(transaction.handle).publishAll(
        topic,
        Array.from({ length: 500 }, (_, i) => n + i),
      );
      await transaction.commit();
    }
    await recorder.waitFor(rows);

    assert.equal(new Set(recorder.received.map(({ payload }) => payload)).size, rows);
    assert.equal(recorder.received.length, rows);
    const relayed = (): number =>
      world.events.reduce((sum, event) => sum + (event.type === "relayed" ? event.count : 0), 0);
    await eventually(() => assert.equal(relayed(), rows));
  }),

  scenario(
    "B4",
    "a row of a transaction that commits late is not skipped",
    async (world) => {
      const { bus, topic, recorder } = await pipeline(world);

      const late = await world.database.begin();
      await bus.outbox(late.handle).publish(topic, "late");
      const early = await world.database.begin();
      await bus.outbox(early.handle).publish(topic, "early");
      await early.commit();
      await recorder.waitFor(1);
      // More rows, so that whatever the relay remembers of its position has moved on.
      for (const text of ["more", "and more"]) {
        const transaction = await world.database.begin();
        await bus.outbox(transaction.handle).publish(topic, text);
        await transaction.commit();
      }
      await recorder.waitFor(3);
      await late.commit();
      await recorder.waitFor(4);

      assert.deepEqual(recorder.received.map(({ payload }) => payload).toSorted(), [
        "and more",
        "early",
        "late",
        "more",
      ]);
    },
    (_capabilities, store) =>
      store.concurrentTransactions ? undefined : "the store has one writing transaction at a time",
  ),

  scenario(
    "B5",
    "messages of one key leave in the order of their transactions, from two relays and while the broker restarts",
    async (world) => {
      const [first, second] = [await world.bus({ store: true }), await world.bus({ store: true })];
      const topic = world.topic<{ key: string; n: number }>({ key: ({ key }) => key, partitions: 4 });
      const seen = new Map<string, number[]>();
      const recorder = await world.consume(
        first,
        topic,
        { group, order: "key", once: false, lease: "3s" },
        ({ key, n }) => {
          const before = seen.get(key) ?? [];
          // What comes twice, as it may after a restart, was in its place the first time.
          if (!before.includes(n)) seen.set(key, [...before, n]);
        },
      );
      first.relay();
      second.relay();
      // A quorum queue is safe from kill -9 only about a second after it was declared.
      await first.publish(topic, { key: "warm-up", n: 0 }, { delay: "1500ms" });
      await recorder.waitFor(1);

      const keys = Array.from({ length: 8 }, (_, i) => `key-${i}`);
      for (let n = 0; n < 40; n += 1) {
        const transaction = await world.database.begin();
        await first.outbox(transaction.handle).publishAll(
          topic,
          keys.map((key) => ({ key, n })),
        );
        await transaction.commit();
        if (n === 20 && world.capabilities.server) await world.faults.restartBroker();
      }
      await eventually(() => {
        for (const key of keys) assert.equal(seen.get(key)?.length, 40, key);
      }, 60_000);

      for (const key of keys) assert.deepEqual(seen.get(key), [...Array(40).keys()], key);
    },
    ({ ordering }) => (ordering === "key" ? undefined : "the adapter does not keep order per key"),
  ),

  scenario(
    "B6",
    "while the broker does not answer rows wait and transactions commit, and then they leave",
    async (world) => {
      const { bus, topic, recorder } = await pipeline(world);
      const first = await world.database.begin();
      await bus.outbox(first.handle).publish(topic, "before");
      await first.commit();
      await recorder.waitFor(1);

      const answer = await world.faults.holdReplies();
      const during = world.database.begin().then(async (transaction) => {
        await bus.outbox(transaction.handle).publishAll(topic, ["one", "two", "three"]);
        await transaction.commit();
      });
      // Where broker and database are one file, it is the transaction that waits.
      if (world.capabilities.server) await during;
      await answer();
      await during;

      await recorder.waitFor(4);
    },
  ),

  scenario(
    "B9",
    "the caller's own transaction is used: rows and message are one, and outside of one it is refused",
    async (world) => {
      const { bus, topic, recorder } = await pipeline(world);

      const transaction = await world.database.begin();
      await world.database.addEffect(transaction.handle, "with the message");
      await bus.outbox(transaction.handle).publish(topic, "one");
      assert.deepEqual(await world.database.effects(), [], "the effect is visible before the commit");
      await transaction.commit();
      await recorder.waitFor(1);
      assert.deepEqual(await world.database.effects(), ["with the message"]);

      await assert.rejects(async () => bus.outbox(transaction.handle).publish(topic, "too late"), {
        code: "ERR_TX",
      });
      await assert.rejects(async () => bus.outbox({}).publish(topic, "no handle"), { code: "ERR_TX" });
    },
  ),

  scenario(
    "B11",
    "what a handler publishes, and its dead letter, leave with its transaction",
    async (world) => {
      const bus = await world.bus({ store: true });
      const [topic, results] = [world.topic<string>(), world.topic<string>()];
      const recorder = await world.consume(bus, results, { group, once: false });
      const retry = { maxAttempts: 2, backoff: constant(20) };
      const options = { group, once: "transaction", holdBelow: 0, retry } as never;
      await world.consume(bus, topic, options, async (payload, context) => {
        await world.database.addEffect(context.tx, payload);
        await context.publish(results, `result of ${payload}`);
        if (payload === "bad") throw new Error("always");
      });

      const { id } = await bus.publish(topic, "good");
      await bus.publish(topic, "bad");
      const [letter] = await eventually(async () => {
        const letters = await Array.fromAsync(bus.deadLetters(topic, { group }).list());
        assert.equal(letters.length, 1);
        return letters;
      });
      await recorder.waitFor(1);

      assert.deepEqual([letter?.message.payload, letter?.attempts, letter?.reason], ["bad", 2, "exhausted"]);
      assert.deepEqual(await world.database.effects(), ["good"]);
      assert.deepEqual(
        recorder.received.map(({ payload }) => payload),
        ["result of good"],
      );
      const { message } = recorder.received[0]?.context ?? assert.fail("nothing came");
      assert.deepEqual([message.causationId, message.correlationId], [id, id]);
    },
  ),
];
