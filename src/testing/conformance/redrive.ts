/** X: dead letters are sent back to their group, and only those that were meant. */
import assert from "node:assert/strict";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { group, lettersOf } from "./letters.ts";
import { type Scenario, scenario } from "./scenario.ts";

export const redrive: readonly Scenario[] = [
  scenario("X5", "redriven messages go back to their own group only, with attempts reset", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>({ key: String });
    let fixed = false;
    const failing = await world.consume(
      bus,
      topic,
      { group, holdBelow: 0, retry: { maxAttempts: 2, backoff: constant(20) } },
      () => {
        if (!fixed) throw new Error("not fixed yet");
      },
    );
    const other = await world.consume(bus, topic, { group: "other" });
    await bus.publishAll(topic, [1, 2, 3, 4], { headers: { tenant: "acme" } });
    const letters = await lettersOf(bus, topic, 4);
    await other.waitFor(4);
    fixed = true;

    const dlq = bus.deadLetters(topic, { group });
    const ids = letters.filter(({ message }) => message.payload !== 4).map(({ message }) => message.id);
    assert.deepEqual(await dlq.redrive({ ids, where: ({ attempts }) => attempts === 2 }), {
      matched: 3,
      redriven: 3,
    });
    await failing.waitFor(8 + 3, "deliveries");

    const again = failing.received.slice(8);
    assert.deepEqual(again.map(({ id }) => id).toSorted(), ids.toSorted());
    for (const { attempt, payload, context } of again) {
      assert.deepEqual([attempt, context.message.redrives, context.message.key], [1, 1, String(payload)]);
      assert.deepEqual({ ...context.message.headers }, { tenant: "acme" });
    }
    assert.deepEqual(
      (await lettersOf(bus, topic, 1)).map(({ message }) => message.payload),
      [4],
    );
    assert.equal(other.received.length, 4, "another group got a redriven message");
  }),

  scenario("X7", "a dry run says what it would do, and changes nothing", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const recorder = await world.consume(
      bus,
      topic,
      { group, holdBelow: 0, retry: { maxAttempts: 1 } },
      (n) => {
        if (n > 0) throw new Error("always");
      },
    );
    await bus.publishAll(topic, [1, 2, 3]);
    const before = await lettersOf(bus, topic, 3);
    const where = ({ message }: { message: { payload: number | undefined } }): boolean =>
      message.payload !== 3;

    const dlq = bus.deadLetters(topic, { group });
    assert.deepEqual(await dlq.redrive({ where, dryRun: true }), { matched: 2, redriven: 0 });
    assert.deepEqual(await dlq.discard({ where, dryRun: true }), { matched: 2, discarded: 0 });
    await bus.publish(topic, 0);
    await recorder.waitFor(4);

    assert.equal(recorder.received.length, 4, "a message was sent back");
    assert.deepEqual(await lettersOf(bus, topic, 3), before);
    assert.ok(!world.events.some(({ type }) => type === "redriven"));
  }),

  scenario("X8", "what is redriven can be chosen by what is in it, and limited in number", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const again: number[] = [];
    const retry = { maxAttempts: 1 };
    await world.consume(bus, topic, { group, retry }, (payload, { message }) => {
      if (message.redrives === 0) throw payload % 2 === 0 ? new RangeError("even") : new TypeError("odd");
      again.push(payload);
    });
    await bus.publishAll(topic, [1, 2, 3, 4, 5, 6, 7, 8]);
    await lettersOf(bus, topic, 8);

    const dlq = bus.deadLetters(topic, { group });
    const report = await dlq.redrive({ where: ({ error }) => error.name === "RangeError", limit: 3 });

    assert.deepEqual(report, { matched: 3, redriven: 3 });
    await eventually(() => assert.equal(again.length, 3));
    assert.ok(again.every((payload) => payload % 2 === 0));
    assert.equal(
      (await lettersOf(bus, topic, 5)).filter(({ error }) => error.name === "RangeError").length,
      1,
    );
    assert.deepEqual(await dlq.discard({ where: ({ error }) => error.name === "TypeError" }), {
      matched: 4,
      discarded: 4,
    });
    assert.equal((await lettersOf(bus, topic, 1))[0]?.error.name, "RangeError");
  }),

  scenario(
    "X10",
    "a dead letter that fails again is one dead letter again, and one that nobody could look at stays",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<string>();
      await world.consume(
        bus,
        topic,
        { group, holdBelow: 0, retry: { maxAttempts: 2, backoff: constant(20) } },
        () => {
          throw new Error("always");
        },
      );
      const { id } = await bus.publish(topic, "one");
      const dlq = bus.deadLetters(topic, { group });

      for (const redrives of [1, 2, 3]) {
        const [letter] = await lettersOf(bus, topic, 1);
        assert.deepEqual([letter?.message.id, letter?.attempts, letter?.redrives], [id, 2, redrives - 1]);
        await assert.rejects(async () => {
          for await (const seen of dlq.list()) throw new Error(`no idea what to do with ${seen.message.id}`);
        }, /no idea/u);
        assert.equal((await dlq.redrive({ ids: [id] })).redriven, 1);
        const ended = (): number => world.events.filter(({ type }) => type === "deadLettered").length;
        await eventually(() => assert.equal(ended(), redrives + 1));
      }

      const [letter] = await lettersOf(bus, topic, 1);
      assert.deepEqual([letter?.topic, letter?.reason, letter?.redrives], [topic.name, "exhausted", 3]);
      assert.deepEqual([letter?.message.payload, letter?.attempts], ["one", 2]);
    },
  ),
];
