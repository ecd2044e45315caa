/** Dead letters in a compacted log: one per message, oldest first, and none is lost by a redrive. */
import assert from "node:assert/strict";
import kafkajs from "kafkajs";
import { constant, defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { it } from "vitest";
import { declared, message, openAdapter, openBus, outgoing, rawAdmin, take, unique } from "./bench.ts";

export function deadLetters(): void {
  it("keeps a letter that is redriven and fails again, however fast", async () => {
    const { bus, events } = openBus();
    const topic = defineTopic<number>(unique("topic"));
    await bus.consume(
      topic,
      { group: "g", holdBelow: 0, retry: { maxAttempts: 1, backoff: constant(0) } },
      () => {
        throw new Error("still broken");
      },
    );
    const count = 50;
    await bus.publishAll(topic, [...Array(count).keys()]);
    const dlq = bus.deadLetters(topic, { group: "g" });
    const dead = (): number => events.filter(({ type }) => type === "deadLettered").length;
    await eventually(() => assert.equal(dead(), count));

    for (let round = 1; round <= 3; round += 1) {
      assert.deepEqual(await dlq.redrive(), { matched: count, redriven: count });
      await eventually(() => assert.equal(dead(), count * (round + 1)));
      const letters = await Array.fromAsync(dlq.list());
      assert.deepEqual(
        letters.map(({ message: { payload } }) => payload).toSorted((a, b) => Number(a) - Number(b)),
        [...Array(count).keys()],
        `round ${round}`,
      );
      assert.ok(letters.every(({ redrives }) => redrives === round));
    }
    assert.deepEqual(await dlq.discard({ where: () => true }), { matched: count, discarded: count });
    assert.deepEqual(await Array.fromAsync(dlq.list()), []);
  }, 60_000);

  it("lists oldest first what was there when it began, page by page, also after some were removed", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const destination = { topic, group: "g", dead: true };
    const ids = Array.from({ length: 250 }, (_, n) => `id-${n}`);
    await adapter.publish(ids.map((id) => ({ ...outgoing(topic, id), destination })));
    // The same message again: one entry, the latest.
    await adapter.publish([{ ...outgoing(topic, "id-3"), destination }]);

    const cursor = await adapter.openDeadLetters({ topic, group: "g" });
    await adapter.publish([{ ...outgoing(topic, "later"), destination }]);
    const first = await cursor.read(100);
    await cursor.remove(first.slice(0, 50));
    const rest = [...(await cursor.read(100)), ...(await cursor.read(100)), ...(await cursor.read(100))];
    await cursor.close();

    const expected = [...ids.filter((id) => id !== "id-3"), "id-3"];
    const idsOf = (letters: typeof first): string[] =>
      letters.map((one) => one.message.attributes["id"] ?? "");
    assert.deepEqual(idsOf([...first, ...rest]), expected);
    const again = await adapter.openDeadLetters({ topic, group: "g" });
    const left = [...(await again.read(500)), ...(await again.read(500))];
    await again.close();
    assert.deepEqual(idsOf(left), [...expected.slice(50), "later"]);
  });

  it("keeps the bytes and the key of what it holds, a message without a body included", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const taker = await take(adapter, topic, {}, (delivery, { subscription }) =>
      subscription.deadLetter(delivery, { "pr-reason": "test" }),
    );
    const bodies = [null, Buffer.alloc(0), Buffer.of(0xff, 0, 1)];
    await adapter.publish(bodies.map((body, n) => outgoing(topic, String(n), { body, key: `key-${n}` })));
    await eventually(() => assert.equal(taker.taken.length, 3));

    const letters = await eventually(async () => {
      const cursor = await adapter.openDeadLetters({ topic, group: "g" });
      const found = await cursor.read(10);
      await cursor.close();
      assert.equal(found.length, 3);
      return found;
    });

    for (const [n, { message: read }] of letters.entries()) {
      const sent = message(String(n), { body: bodies[n] ?? null, key: `key-${n}` });
      assert.deepEqual({ ...read.attributes }, sent.attributes);
      assert.deepEqual({ ...read.headers }, { "pr-reason": "test" });
      assert.equal(read.key, sent.key);
      assert.deepEqual(
        read.body === null ? null : [...read.body],
        sent.body === null ? null : [...sent.body],
      );
    }
    const admin = await rawAdmin();
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: `${topic.name}--g--dead` }],
    });
    const policy = resources[0]?.configEntries.find(({ configName }) => configName === "cleanup.policy");
    assert.equal(policy?.configValue, "compact");
  });
}
