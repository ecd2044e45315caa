import { eventually } from "postrider/testing";
import { expect, onTestFinished, test } from "vitest";
import { RedisConnection } from "../../../adapters/redis/connection.ts";
import { trim } from "../../../adapters/redis/groups.ts";
import { checkOptions } from "../../../adapters/redis/options.ts";
import { nodeRuntime } from "../../../src/clock.ts";
import { createNames } from "../../../src/names.ts";
import {
  collect,
  openAdapter,
  publish,
  rawClient,
  server,
  subscribe,
  textOf,
  topicOf,
  unique,
} from "./bench.ts";

export function trimming(): void {
  test("what the only group has settled is gone at once", async () => {
    const topic = unique("alone");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);
    await publish(adapter, topic, "a", "b", "c");
    const [a, b, c] = await sink.atLeast(3);

    await subscription.ack([b!]);
    expect(await client.xlen(`{${topic}}`)).toBe(2);
    await subscription.ack([a!, c!]);
    expect(await client.xlen(`{${topic}}`)).toBe(0);
  });

  test("what a second group has not read, or has pending, is never removed; what both have settled is", async () => {
    const topic = unique("two");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const [fast, slow] = [collect(), collect()];
    await adapter.declare({ topics: [], groups: [{ topic: topicOf(topic), group: "slow" }] });
    const first = await subscribe(adapter, topic, fast);
    const texts = Array.from({ length: 20 }, (_, i) => String(i));
    await publish(adapter, topic, ...texts);
    await first.ack(await fast.atLeast(20));
    expect(await client.xlen(`{${topic}}`)).toBe(20);

    const second = await subscribe(adapter, topic, slow, { group: "slow", prefetch: 10 });
    const ten = [...(await slow.atLeast(10))];
    await second.ack(ten.filter((_, i) => i !== 3));
    await slow.atLeast(19);
    await second.ack(slow.delivered.slice(10));
    // The oldest that anybody needs is the fourth: the three before it may go, and go.
    await eventually(async () => {
      const ids = (await client.xrange(`{${topic}}`, "-", "+")).map(([id]) => id);
      expect(ids).toHaveLength(17);
      expect(ids[0]).toBe(ten[3]!.position);
    });
    await second.ack([ten[3]!]);
    await slow.atLeast(20);
    await second.ack(slow.delivered.slice(19));

    await eventually(async () => expect(await client.xlen(`{${topic}}`)).toBeLessThanOrEqual(1));
    expect(slow.delivered.map(textOf).toSorted()).toEqual(texts.toSorted());
  });

  test("consumers that are gone are dropped when they have nothing pending, and only then", async () => {
    const topic = unique("gone");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const key = `{${topic}}`;
    await adapter.declare({ topics: [], groups: [{ topic: topicOf(topic), group: "g" }] });
    await publish(adapter, topic, "a");
    await client.xreadgroup("GROUP", "g", "with-pending", "COUNT", 1, "STREAMS", key, ">");
    const [[id]] = (await client.xpending(key, "g", "-", "+", 1)) as [[string]];
    const connection = new RedisConnection(checkOptions({ url: server.url }));
    onTestFinished(() => connection.close());
    await connection.connect({
      runtime: nodeRuntime,
      prefix: "",
      names: createNames(""),
      emit: () => undefined,
    });
    await client.xgroup("CREATECONSUMER", key, "g", "idle");

    // Nobody waits ten minutes for a test.
    await trim(connection, { topic: topicOf(topic), group: "g" }, -1);

    const consumers = (await client.xinfo("CONSUMERS", key, "g")) as unknown[][];
    expect(consumers.map((fields) => fields[1])).toEqual(["with-pending"]);
    expect(await client.xpending(key, "g", id, id, 1)).toHaveLength(1);
  });
}
