/** X: what cannot be handled is kept, as it was, with why, once, and can be sent back. */
import assert from "node:assert/strict";
import type { Bus } from "../../bus.ts";
import { nodeRuntime } from "../../clock.ts";
import { json } from "../../codec.ts";
import { MessagingError } from "../../errors.ts";
import { constant } from "../../retry/backoff.ts";
import type { Topic } from "../../topic.ts";
import { eventually } from "../eventually.ts";
import { group, lettersOf } from "./letters.ts";
import { type Scenario, scenario } from "./scenario.ts";

export const deadLetters: readonly Scenario[] = [
  scenario(
    "X1",
    "a dead letter has the original bytes and headers, and says where, when, how often and why",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<{ n: number }>({ key: ({ n }) => `key-${n}` });
      const before = nodeRuntime.now() - 60_000;
      const retry = { maxAttempts: 2, backoff: constant(20) };
      await world.consume(bus, topic, { group, holdBelow: 0, retry }, () => {
        throw Object.assign(
          new RangeError(`bad total, see amqp://user:hunter2@host, password=hunter2 ${"x".repeat(5_000)}`),
          { code: "E_TOTAL" },
        );
      });

      const { id } = await bus.publish(topic, { n: 7 }, { headers: { tenant: "acme" } });
      const [letter] = await lettersOf(bus, topic, 1);

      assert.ok(letter !== undefined);
      assert.equal(letter.message.id, id);
      assert.equal(letter.message.key, "key-7");
      assert.deepEqual(letter.message.payload, { n: 7 });
      assert.deepEqual([...(letter.body ?? [])], [...json.encode({ n: 7 })]);
      assert.deepEqual({ ...letter.message.headers }, { tenant: "acme" });
      assert.deepEqual(
        [letter.topic, letter.group, letter.reason, letter.attempts],
        [topic.name, group, "exhausted", 2],
      );
      assert.deepEqual([letter.error.name, letter.error.code], ["RangeError", "E_TOTAL"]);
      assert.ok(letter.error.message.startsWith("bad total") && letter.error.message.length <= 2_048);
      assert.ok(!letter.error.message.includes("hunter2"), "a password was written down");
      const [first, last] = [letter.firstFailureAt?.getTime() ?? 0, letter.deadLetteredAt?.getTime() ?? 0];
      assert.ok(before < first && first <= last);
    },
  ),

  scenario(
    "X2",
    "a body that cannot be decoded is dead-lettered as it came, and the next message is handled",
    async (world) => {
      const bus = await world.bus();
      const raw = world.topic<Uint8Array>({ codec: "bytes" });
      const topic: Topic<{ n: number }, { n: number }> = { ...world.topic<{ n: number }>(), name: raw.name };
      const recorder = await world.consume(bus, topic, { group });
      const bodies = [
        "{ broken",
        "\ufeff1",
        '{"__proto__":{"admin":true}}',
        "",
        `${"[".repeat(100)}${"]".repeat(100)}`,
      ];

      for (const body of bodies) await bus.publish(raw, Buffer.from(body));
      await bus.publish(raw, Uint8Array.of(0xff, 0xfe));
      await bus.publish(raw, Buffer.from('{"n":1}'));
      await recorder.waitFor(1);
      const letters = await lettersOf(bus, topic, bodies.length + 1);

      assert.deepEqual(
        recorder.received.map(({ payload }) => payload),
        [{ n: 1 }],
      );
      assert.ok(letters.every(({ reason, attempts }) => reason === "invalid" && attempts === 1));
      const texts = letters.map(({ body }) => Buffer.from(body ?? []).toString("latin1"));
      assert.deepEqual(
        texts.toSorted(),
        [...bodies.map((body) => Buffer.from(body).toString("latin1")), "\xff\xfe"].toSorted(),
      );
    },
  ),

  scenario("X3", "a message that comes twice and fails twice is one dead letter", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<string>();
    await world.consume(bus, topic, { group, holdBelow: 0, retry: { maxAttempts: 1 } }, () => {
      throw new Error("always");
    });

    await bus.publish(topic, "one", { id: "the-same" });
    await bus.publish(topic, "one", { id: "the-same" });
    await bus.publish(topic, "two", { id: "another" });
    await lettersOf(bus, topic, 2);

    const letters = await lettersOf(bus, topic, 2);
    assert.deepEqual(letters.map(({ message }) => message.id).toSorted(), ["another", "the-same"]);
  }),

  scenario(
    "X4",
    "of two copies of a message, of which one would fail, either the effect remains or the dead letter, never both",
    async (world) => {
      const buses = [await world.bus({ store: true }), await world.bus({ store: true })];
      const topic = world.topic<string>({ partitions: 4 });
      const keys = Array.from({ length: 20 }, (_, i) => `message-${i}`);
      const options = { group, once: "transaction", holdBelow: 0, retry: { maxAttempts: 1 } } as never;
      for (const bus of buses) {
        await world.consume(bus, topic, options, async (payload, { tx, message }) => {
          await world.database.addEffect(tx, payload);
          if (message.id.endsWith("-0")) throw new Error("this copy fails");
        });
      }

      const [bus] = buses as [Bus];
      await Promise.all(
        keys.flatMap((key) =>
          [0, 1].map((copy) => bus.publish(topic, key, { id: `${key}-${copy}`, idempotencyKey: key })),
        ),
      );
      const outcomes = await eventually(async () => {
        const letters = await Array.fromAsync(bus.deadLetters(topic, { group }).list());
        const dead = letters.map(({ message }) => message.payload as string);
        const found = [...dead, ...(await world.database.effects())];
        assert.ok(found.length >= keys.length, `${found.length} of ${keys.length} have ended`);
        return found;
      });

      assert.deepEqual(outcomes.toSorted(), keys.toSorted());
    },
  ),

  scenario(
    "X9",
    "a consumer whose dead letters have no place to go says so at start, or keeps its message until they have",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<string>();
      await bus.declare({ groups: { [group]: [topic] } });
      const heal = await world.faults.refuseDeadLetters(topic.name, group);
      let healed: Promise<void> | undefined;
      // Once: what heals may take away the place that was in the way, and by then there is a good one.
      const accept = (): Promise<void> => (healed ??= heal());
      const options = { group, holdBelow: 0, retry: { maxAttempts: 1 } } as const;
      const consume = (): Promise<unknown> =>
        world.consume(bus, topic, options, () => {
          throw new Error("always");
        });
      try {
        const refused: unknown = await consume().then(
          () => undefined,
          (error: unknown) => error,
        );
        await bus.publish(topic, "one");
        if (refused === undefined)
          await eventually(() => assert.ok(world.events.some(({ type }) => type === "settleFailed")));
        else assert.ok(MessagingError.is(refused) && refused.message.includes(topic.name));
        await accept();
        if (refused !== undefined) await consume();
      } finally {
        await accept().catch(() => undefined);
      }

      const [letter] = await lettersOf(bus, topic, 1);
      assert.equal(letter?.message.payload, "one");
    },
  ),
];
