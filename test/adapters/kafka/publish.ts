/** Publishing: where a message goes, and that its result is true. */
import assert from "node:assert/strict";
import kafkajs from "kafkajs";
import { defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { it, onTestFinished } from "vitest";
import { partitionOfKey } from "../../../src/partitioner.ts";
import {
  acking,
  declared,
  message,
  openAdapter,
  openBus,
  outgoing,
  rawAdmin,
  rawProducer,
  recordsOf,
  server,
  take,
  throughProxy,
  unique,
} from "./bench.ts";

export function publishing(): void {
  it("sends a key where any Kafka client sends it, and spreads messages without one", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 5);
    const keys = Array.from({ length: 50 }, (_, n) => `key-${n}`);

    await adapter.publish([
      ...keys.map((key) => outgoing(topic, key, { key })),
      ...keys.map((_, n) => outgoing(topic, `no-${n}`)),
    ]);
    const producer = await rawProducer();
    await producer.send({ topic: topic.name, messages: keys.map((key) => ({ key, value: "theirs" })) });
    const records = await recordsOf(topic.name);

    for (const { key, partition } of records) {
      if (key !== null) assert.equal(partition, partitionOfKey(key.toString(), 5));
    }
    const spread = [0, 1, 2, 3, 4].map(
      (n) => records.filter((one) => one.key === null && one.partition === n).length,
    );
    assert.deepEqual(spread, [10, 10, 10, 10, 10]);
  });

  it("refuses a message that is too large, and it alone", async () => {
    const { adapter } = await openAdapter();
    const topic = { name: unique("topic"), partitions: 2, keyed: false };
    const admin = await rawAdmin();
    const configEntries = [{ name: "max.message.bytes", value: "20000" }];
    await admin.createTopics({
      waitForLeaders: false,
      topics: [{ topic: topic.name, numPartitions: 2, replicationFactor: 1, configEntries }],
    });
    await adapter.declare({ topics: [topic], groups: [] });
    const bodies = [10, 10, 30_000, 10, 19_000, 10].map((size) => Buffer.alloc(size, 1));

    const results = await adapter.publish(bodies.map((body, n) => outgoing(topic, String(n), { body })));

    assert.deepEqual(
      results.map(({ status }) => status),
      ["accepted", "accepted", "rejected", "accepted", "accepted", "accepted"],
    );
    const refused = results.find((result) => result.status === "rejected");
    assert.deepEqual([refused?.error.code, refused?.error.retryable], ["ERR_TOO_LARGE", false]);
    const ids = (await recordsOf(topic.name)).map(({ headers }) => String(headers?.["ce_id"]));
    assert.deepEqual(ids.toSorted(), ["0", "1", "3", "4", "5"]);
  });

  it("finds the message that is too large also where it was not told the limit", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 2);
    await adapter.publish([outgoing(topic, "first")]);
    const admin = await rawAdmin();
    // The adapter knows the topic by now, with the limit it had.
    await admin.alterConfigs({
      validateOnly: false,
      resources: [
        {
          type: kafkajs.ConfigResourceTypes.TOPIC,
          name: topic.name,
          configEntries: [{ name: "max.message.bytes", value: "20000" }],
        },
      ],
    });

    const results = await adapter.publish(
      Array.from({ length: 40 }, (_, n) =>
        outgoing(topic, String(n), { body: Buffer.alloc(n === 17 ? 30_000 : 1_000) }),
      ),
    );

    results.forEach(({ status }, n) => assert.equal(status, n === 17 ? "rejected" : "accepted", String(n)));
    const ids = new Set((await recordsOf(topic.name)).map(({ headers }) => String(headers?.["ce_id"])));
    assert.equal(ids.size, 40);
    assert.ok(!ids.has("17"));
  });

  it("loses nothing when a topic is made anew with fewer partitions", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 8);
    const send = async (from: number): Promise<string[]> => {
      const ids = Array.from({ length: 100 }, (_, n) => String(from + n));
      const results = await adapter.publish(ids.map((id) => outgoing(topic, id, { key: id })));
      return ids.filter((_, n) => results[n]?.status === "accepted");
    };
    await send(0);
    const admin = await rawAdmin();
    await admin.deleteTopics({ topics: [topic.name] });
    await admin.createTopics({
      waitForLeaders: false,
      topics: [{ topic: topic.name, numPartitions: 2, replicationFactor: 1 }],
    });

    await send(1_000);
    const all = await eventually(async () => {
      const later = await send(2_000);
      assert.equal(later.length, 100);
      return later;
    });

    const stored = new Set((await recordsOf(topic.name)).map(({ headers }) => String(headers?.["ce_id"])));
    // What went into the old topic before it was gone is gone with it; what was confirmed after that is there.
    for (const id of all) assert.ok(stored.has(id), `${id} was confirmed and is not there`);
  }, 60_000);

  it("says that a topic does not exist, soon and without holding up others", async () => {
    const { adapter } = await openAdapter();
    const [gone, there] = [await declared(adapter), await declared(adapter)];
    await adapter.publish([outgoing(gone, "1"), outgoing(there, "1")]);
    const admin = await rawAdmin();
    await admin.deleteTopics({ topics: [gone.name] });

    const results = await adapter.publish([outgoing(gone, "2"), outgoing(there, "2")]);
    const again = await adapter.publish([outgoing(gone, "3")]);

    assert.deepEqual(
      results.map(({ status }) => status),
      ["rejected", "accepted"],
    );
    for (const result of [results[0], again[0]]) {
      assert.ok(result?.status === "rejected");
      assert.deepEqual([result.error.code, result.error.retryable], ["ERR_DESTINATION", false]);
    }
  });

  it("makes a group's own topics where only a publisher runs", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 2);
    const destination = { topic, group: "late" };

    const results = await adapter.publish([
      { ...outgoing(topic, "again"), destination },
      { ...outgoing(topic, "letter"), destination: { ...destination, dead: true } },
    ]);
    const taker = await take(adapter, topic, { group: "late" }, acking);
    await eventually(() => assert.deepEqual(taker.ids(), ["again"]));
    const cursor = await adapter.openDeadLetters({ topic, group: "late" });

    assert.deepEqual(
      results.map(({ status }) => status),
      ["accepted", "accepted"],
    );
    const letters = await cursor.read(10);
    await cursor.close();
    assert.deepEqual(
      letters.map((letter) => letter.message.attributes["id"]),
      ["letter"],
    );
  });

  it("offers its three levels of durability", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter);
    const taker = await take(adapter, topic, {}, acking);

    const results = await adapter.publish(
      (["none", "accepted", "replicated"] as const).map((durability) =>
        Object.assign({}, outgoing(topic, durability), { durability }),
      ),
    );
    await eventually(() => assert.equal(taker.taken.length, 3));

    assert.deepEqual(
      results.map((result) => result.status === "accepted" && result.durability),
      ["none", "accepted", "replicated"],
    );
  });

  it("tells a message that was surely not sent from one that may have been", async () => {
    const proxy = await throughProxy();
    const { adapter } = await openAdapter({ url: proxy.url });
    const topic = await declared(adapter);
    await adapter.publish([outgoing(topic, "warm")]);

    const release = proxy.holdReplies();
    const held = adapter.publish([outgoing(topic, "held")]);
    await eventually(async () => assert.equal((await recordsOf(topic.name)).length, 2));
    await adapter.close();
    const [unknown] = await held;
    await release();

    assert.equal(unknown?.status, "unknown");
    const [closed] = await adapter.publish([outgoing(topic, "late")]);
    assert.equal(closed?.status, "rejected");
    assert.equal(closed.error.code, "ERR_CLOSED");
  });

  it("stores a batch once although its connection is cut again and again", async () => {
    const proxy = await throughProxy();
    const { adapter } = await openAdapter({ url: proxy.url });
    const topic = await declared(adapter, 3);
    let sending = true;
    const cutting = (async () => {
      while (sending) {
        await proxy.cut();
        await new Promise((resolve) => setTimeout(resolve, 60));
      }
    })();

    let accepted = 0;
    for (let n = 0; n < 60; n += 1) {
      const results = await adapter.publish(
        Array.from({ length: 50 }, (_, i) => outgoing(topic, `${n}-${i}`, { body: Buffer.alloc(1_000) })),
      );
      accepted += results.filter(({ status }) => status === "accepted").length;
    }
    sending = false;
    await cutting;

    const ids = (await recordsOf(topic.name)).map(({ headers }) => String(headers?.["ce_id"]));
    assert.equal(accepted, 3_000);
    assert.equal(new Set(ids).size, 3_000);
    assert.equal(ids.length, 3_000, "a retried batch was stored twice");
  }, 60_000);

  it("goes on by itself after the broker was away", async () => {
    const { bus, events } = openBus({}, { publishTimeout: "60s" });
    const topic = defineTopic<number>(unique("away"));
    await bus.publish(topic, 1);

    onTestFinished(() => server.up());
    await server.kill();
    const sending = bus.publish(topic, 2);
    await eventually(() => assert.equal(bus.health().ready, false));
    await server.start();
    await sending;

    await eventually(() => assert.equal(bus.health().ready, true));
    const types = events.map(({ type }) => type).filter((type) => type.includes("connect"));
    assert.deepEqual([types[0], types[1], types.at(-1)], ["connected", "disconnected", "connected"]);
  }, 60_000);

  it("refuses a record the topic cannot take, for good", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter);
    const admin = await rawAdmin();
    await admin.alterConfigs({
      validateOnly: false,
      resources: [
        {
          type: kafkajs.ConfigResourceTypes.TOPIC,
          name: topic.name,
          configEntries: [{ name: "cleanup.policy", value: "compact" }],
        },
      ],
    });

    const results = await adapter.publish([
      outgoing(topic, "a", { key: "k" }),
      { ...outgoing(topic, "b"), message: message("b") },
    ]);

    assert.equal(results[0]?.status, "accepted");
    assert.ok(results[1]?.status === "rejected");
    assert.deepEqual([results[1].error.code, results[1].error.retryable], ["ERR_ENCODE", false]);
  });
}
