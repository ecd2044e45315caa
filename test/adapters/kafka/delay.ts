/** Retry topics: nothing comes early, nothing waits for ever, and nothing is in the way of anything else. */
import assert from "node:assert/strict";
import kafkajs from "kafkajs";
import { eventually } from "postrider/testing";
import { it } from "vitest";
import { acking, declared, idOf, openAdapter, outgoing, rawAdmin, rawProducer, take } from "./bench.ts";

export function delaying(): void {
  it("hands each message over when it is due, whatever was deferred before it", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 2, ["g"]);
    const due = new Map<string, number>();
    const late = new Map<string, number>();
    await take(adapter, topic, { prefetch: 5 }, async (delivery, { subscription }) => {
      const id = idOf(delivery);
      const dueAt = due.get(id);
      if (dueAt !== undefined) {
        late.set(id, performance.now() - dueAt);
        return subscription.ack([delivery]);
      }
      const delayMs = Number(id);
      due.set(id, performance.now() + delayMs);
      return subscription.defer(delivery, delayMs, {});
    });

    const delays = Array.from({ length: 60 }, (_, n) => (n * 797) % 2_000);
    await adapter.publish(delays.map((ms) => outgoing(topic, String(ms))));
    await eventually(() => assert.equal(late.size, delays.length));

    for (const [id, ms] of late) assert.ok(ms >= 0, `${id} came ${-ms} ms early`);
  });

  it("lets a message wait longer than its retry topic is for, in a copy after the other", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const retry = `${topic.name}--g--retry-10s`;
    const producer = await rawProducer();
    const taker = await take(adapter, topic, {}, acking);
    const began = Date.now();
    const headers = { ce_id: "long", "pr-kafka-due": String(began + 11_500) };
    await producer.send({ topic: retry, messages: [{ value: "x", headers, timestamp: String(began) }] });
    await producer.send({ topic: retry, messages: [{ value: "x", headers: { ce_id: "short" } }] });

    await eventually(() => assert.deepEqual(taker.ids(), ["short"]));
    await eventually(() => assert.deepEqual(taker.ids(), ["short", "long"]), 30_000);

    assert.ok(Date.now() - began >= 11_500);
    const admin = await rawAdmin();
    const [offsets] = await admin.fetchTopicOffsets(retry);
    assert.equal(offsets?.high, "3", "it was not copied on its way");
  }, 60_000);

  it("reads retry topics of an earlier policy, where messages may still wait", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const before = await take(adapter, topic, { maxRetryDelayMs: 86_400_000 }, acking);
    await before.subscription.close();
    const producer = await rawProducer();
    await producer.send({
      topic: `${topic.name}--g--retry-1d`,
      messages: [{ value: "x", headers: { ce_id: "left" } }],
    });

    const after = await take(adapter, topic, { maxRetryDelayMs: 1_000 }, acking);

    await eventually(() => assert.deepEqual(after.ids(), ["left"]));
  });

  it("keeps messages that wait from being removed, and warns where somebody has changed that", async () => {
    const first = await openAdapter();
    const topic = await declared(first.adapter, 1, ["g"]);
    const retry = `${topic.name}--g--retry-10m`;
    const admin = await rawAdmin();
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: retry }],
    });
    const setting = (name: string): string | undefined =>
      resources[0]?.configEntries.find(({ configName }) => configName === name)?.configValue;
    assert.deepEqual([setting("cleanup.policy"), setting("retention.bytes")], ["delete", "-1"]);
    assert.ok(Number(setting("retention.ms")) > 7 * 86_400_000);
    assert.ok(Number(setting("max.message.bytes")) > 1_048_588, "a copy with its headers may not fit");
    assert.equal(first.events.filter(({ type }) => type === "warning").length, 0);

    await admin.alterConfigs({
      validateOnly: false,
      resources: [
        {
          type: kafkajs.ConfigResourceTypes.TOPIC,
          name: retry,
          configEntries: [{ name: "retention.ms", value: "60000" }],
        },
      ],
    });
    const second = await openAdapter();
    await second.adapter.declare({ topics: [], groups: [{ topic, group: "g" }] });

    const warnings = second.events.flatMap((event) => (event.type === "warning" ? [event.message] : []));
    assert.equal(warnings.length, 1);
    assert.match(warnings[0] ?? "", /retry-10m.*retention\.ms/u);
  });
}
