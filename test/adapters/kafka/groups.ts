/** Members of a group: who gets what, and what becomes of work under way when that changes. */
import assert from "node:assert/strict";
import { type BusEvent, defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { it } from "vitest";
import {
  acking,
  committedOf,
  declared,
  idOf,
  openAdapter,
  openBus,
  outgoing,
  rawAdmin,
  rawProducer,
  take,
  unique,
} from "./bench.ts";

export function grouping(): void {
  it("lets members of one group read different topics, each its own and nothing else", async () => {
    const [one, two, three] = [await openAdapter(), await openAdapter(), await openAdapter()];
    const x = await declared(one.adapter, 4, ["g"]);
    const y = await declared(one.adapter, 3, ["g"]);
    // The client's own assigner would deal out the leader's topics only, whoever that is.
    const ofX = await take(one.adapter, x, {}, acking);
    const ofY = await take(two.adapter, y, {}, acking);
    const alsoX = await take(three.adapter, x, {}, acking);
    const ids = Array.from({ length: 120 }, (_, n) => String(n));

    await one.adapter.publish(ids.map((id) => outgoing(x, `x-${id}`)));
    await one.adapter.publish(ids.map((id) => outgoing(y, `y-${id}`)));
    await eventually(() => {
      assert.equal(new Set([...ofX.ids(), ...alsoX.ids()]).size, 120);
      assert.equal(new Set(ofY.ids()).size, 120);
    });

    assert.ok([...ofX.ids(), ...alsoX.ids()].every((id) => id.startsWith("x-")));
    assert.ok(ofY.ids().every((id) => id.startsWith("y-")));
    assert.ok(ofX.taken.length > 0 && alsoX.taken.length > 0, "one member had all partitions");
    assert.equal(ofX.taken.length + alsoX.taken.length, 120);
  });

  it("gives each of two groups on the same topics every message", async () => {
    const { adapter } = await openAdapter();
    const topics = [await declared(adapter, 2, ["a", "b"]), await declared(adapter, 2, ["a", "b"])];
    const takers = await Promise.all(
      ["a", "b"].flatMap((group) => topics.map((topic) => take(adapter, topic, { group }, acking))),
    );

    for (const topic of topics)
      await adapter.publish("0123456789".split("").map((id) => outgoing(topic, id)));

    for (const taker of takers) {
      await eventually(() => assert.deepEqual(taker.ids().toSorted(), "0123456789".split("")));
    }
  });

  it("loses nothing and repeats nothing that was settled, while members come and go", async () => {
    const topic = defineTopic<number>(unique("topic"), { partitions: 8 });
    const handled = new Set<string>();
    const repeated: string[] = [];
    const seen = new Set<number>();
    const consume = async (): Promise<{ close(): Promise<void> }> => {
      const onEvent = (event: BusEvent): void => {
        if (event.type === "handled") handled.add(event.messageId);
      };
      const { bus } = openBus({}, { onEvent });
      return bus.consume(topic, { group: "g", concurrency: 8 }, async (n, { message }) => {
        if (handled.has(message.id)) repeated.push(message.id);
        await new Promise((resolve) => setTimeout(resolve, n % 40));
        seen.add(n);
      });
    };
    const { bus } = openBus();
    const count = 3_000;
    const first = await consume();
    const sending = bus.publishAll(topic, [...Array(count).keys()]);

    const second = await consume();
    await eventually(() => assert.ok(seen.size > count / 4));
    const third = await consume();
    await second.close();
    await eventually(() => assert.ok(seen.size > count / 2));
    await first.close();
    await sending;
    await eventually(() => assert.equal(seen.size, count), 60_000);
    await third.close();

    assert.deepEqual(repeated, []);
  });

  it("keeps what is under way when it keeps the partition", async () => {
    const [one, two] = [await openAdapter(), await openAdapter()];
    const topic = await declared(one.adapter, 2, ["g"]);
    const first = await take(one.adapter, topic);
    await one.adapter.publish("abcdefgh".split("").map((id) => outgoing(topic, id)));
    await eventually(() => assert.equal(first.taken.length, 8));

    const second = await take(two.adapter, topic);
    // One partition has moved: what was under way in it is lost here and comes there, uncounted; the other is untouched.
    await eventually(() => assert.equal(second.taken.length, 4));
    const lost = new Set(first.lost);
    const results = await first.subscription.ack(first.taken);

    assert.equal(first.lost.length, 4);
    assert.deepEqual(first.lost.map(idOf).toSorted(), second.ids().toSorted());
    assert.ok(second.taken.every(({ redeliveries }) => redeliveries === 0));
    assert.deepEqual(
      results.map(({ status }) => status),
      first.taken.map((delivery) => (lost.has(delivery) ? "stale" : "done")),
    );
    await second.subscription.ack(second.taken);
    await first.subscription.close();
    await second.subscription.close();
    const committed = await committedOf("g", topic.name);
    assert.deepEqual(
      committed.map(({ offset }) => offset),
      [4, 4],
    );
  });

  it("takes on partitions that are added", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const taker = await take(adapter, topic, {}, acking);
    await adapter.publish([outgoing(topic, "before")]);
    await eventually(() => assert.deepEqual(taker.ids(), ["before"]));

    const admin = await rawAdmin();
    await admin.createPartitions({ topicPartitions: [{ topic: topic.name, count: 3 }] });
    const producer = await rawProducer();
    await eventually(() =>
      producer.send({
        topic: topic.name,
        messages: [{ value: "x", partition: 2, headers: { ce_id: "after" } }],
      }),
    );

    await eventually(() => assert.ok(taker.ids().includes("after")), 60_000);
  }, 90_000);
}
