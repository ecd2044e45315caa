import { MessagingError } from "postrider";
import { eventually } from "postrider/testing";
import { expect, onTestFinished, test } from "vitest";
import {
  collect,
  message,
  openAdapter,
  outgoing,
  publish,
  rawClient,
  second,
  server,
  subscribe,
  textOf,
  throughProxy,
  topicOf,
  unique,
} from "./bench.ts";

export function publishing(): void {
  test("a publish whose answer was lost is unknown, and stored once when it is repeated", async () => {
    const topic = unique("lost-answer");
    const proxy = await throughProxy();
    const { adapter } = await openAdapter({ url: proxy.url, commandTimeout: 500 });
    const client = rawClient();
    const batch = ["a", "b"].map((text) => outgoing(topic, message(text)));

    const heal = proxy.holdReplies();
    const first = await adapter.publish(batch);
    expect(first.map(({ status }) => status)).toEqual(["unknown", "unknown"]);
    expect(await client.xlen(`{${topic}}`)).toBe(2);
    await heal();
    await eventually(() => expect(adapter.health().connected).toBe(true));
    const again = await adapter.publish(batch);

    expect(again).toEqual(
      again.map(() => ({ status: "accepted", durability: "replicated", duplicate: true })),
    );
    expect(await client.xlen(`{${topic}}`)).toBe(2);
  });

  test("a publish that is cut off is unknown, and stored once when it is repeated", async () => {
    const topic = unique("cut");
    const proxy = await throughProxy();
    const { adapter } = await openAdapter({ url: proxy.url });
    const client = rawClient();
    const batch = [outgoing(topic, message("a"))];

    proxy.holdReplies();
    const first = adapter.publish(batch);
    await eventually(async () => expect(await client.xlen(`{${topic}}`)).toBe(1));
    await proxy.cut();

    expect((await first)[0]?.status).toBe("unknown");
    expect(await client.xlen(`{${topic}}`)).toBe(1);
  });

  test("without a connection it is rejected for certain, and worth another try", async () => {
    const topic = unique("down");
    const proxy = await throughProxy();
    const { adapter } = await openAdapter({ url: proxy.url });
    await proxy.close();
    await proxy.cut();
    await eventually(() => expect(adapter.health().connected).toBe(false));

    const [result] = await adapter.publish([outgoing(topic, message("a"))]);

    expect(result).toMatchObject({
      status: "rejected",
      error: { code: "ERR_CONNECTION_LOST", retryable: true },
    });
  });

  test("an id, and an idempotency key, is remembered for the window and per topic", async () => {
    const [topic, other] = [unique("window"), unique("window")];
    const { adapter } = await openAdapter({ dedupeWindow: "1s" });
    const client = rawClient();
    const send = async (to: string, attributes: Record<string, string>): Promise<boolean | undefined> => {
      const [result] = await adapter.publish([outgoing(to, message("a", { attributes }))]);
      return result?.status === "accepted" ? result.duplicate : undefined;
    };

    expect(await send(topic, { id: "1", idempotencykey: "k" })).toBe(false);
    expect(await send(topic, { id: "1" })).toBe(true);
    expect(await send(topic, { id: "2", idempotencykey: "k" })).toBe(true);
    expect(await send(topic, { id: "3" })).toBe(false);
    expect(await send(other, { id: "1" })).toBe(false);
    await eventually(async () => expect(await client.exists(`{${topic}}:id:1`)).toBe(0));
    expect(await send(topic, { id: "1" })).toBe(false);
  });

  test("a message that the server refuses does not count as published", async () => {
    const topic = unique("wrong-type");
    const { adapter } = await openAdapter();
    const client = rawClient();
    await client.set(`{${topic}}`, "no stream");
    const batch = [outgoing(topic, message("a"))];

    const [refused] = await adapter.publish(batch);
    await client.del(`{${topic}}`);
    const [accepted] = await adapter.publish(batch);

    expect(refused).toMatchObject({ status: "rejected", error: { code: "ERR_TOPOLOGY", retryable: false } });
    expect(accepted).toMatchObject({ status: "accepted", duplicate: false });
  });

  test("P4 a full server rejects for certain, goes on handing over and settling, and takes messages again", async () => {
    const topic = unique("full");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink, { prefetch: 1 });
    await publish(adapter, topic, "a", "b", "c");
    onTestFinished(async () => void (await client.config("SET", "maxmemory", "512mb")));

    await client.config("SET", "maxmemory", "1mb");
    const [rejected] = await adapter.publish([outgoing(topic, message("d"))]);
    expect(rejected).toMatchObject({
      status: "rejected",
      error: { code: "ERR_BROKER_FULL", retryable: true },
    });
    for (const count of [1, 2, 3]) {
      const delivered = await sink.atLeast(count);
      const settled = await subscription.ack(delivered.slice(count - 1));
      expect(settled).toEqual([{ status: "done" }]);
    }
    await client.config("SET", "maxmemory", "512mb");
    await publish(adapter, topic, "e");

    await sink.atLeast(4);
    expect(sink.texts()).toEqual(["a", "b", "c", "e"]);
  });

  test("a full server does not lose a message that is deferred or dead-lettered", async () => {
    const topic = unique("full-settle");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);
    await publish(adapter, topic, "a", "b");
    const [a, b] = await sink.atLeast(2);
    onTestFinished(async () => void (await client.config("SET", "maxmemory", "512mb")));

    await client.config("SET", "maxmemory", "1mb");
    const refused = [await subscription.defer(a!, 0, {}), await subscription.deadLetter(b!, {})];
    expect(refused).toMatchObject([
      { status: "failed", error: { code: "ERR_BROKER_FULL" } },
      { status: "failed", error: { code: "ERR_BROKER_FULL" } },
    ]);
    expect(await pending(client, topic)).toBe(2);
    await client.config("SET", "maxmemory", "512mb");
    const done = [await subscription.defer(a!, 0, {}), await subscription.deadLetter(b!, {})];

    expect(done).toEqual([{ status: "done" }, { status: "done" }]);
    await sink.atLeast(3);
    expect(textOf(sink.delivered[2]!)).toBe("a");
  });

  test("a read-only server is left for another one, and the publish was surely not carried out", async () => {
    const topic = unique("read-only");
    const { adapter, events } = await openAdapter();
    const client = rawClient();
    await second.up();
    onTestFinished(async () => void (await client.replicaof("NO", "ONE")));

    await client.replicaof("127.0.0.1", new URL(second.url).port);
    const [refused] = await adapter.publish([outgoing(topic, message("a"))]);
    expect(refused).toMatchObject({ status: "rejected", error: { retryable: true } });
    await eventually(() => expect(events.map(({ type }) => type)).toContain("reconnecting"));
    expect(adapter.health().connected).toBe(false);
    await client.replicaof("NO", "ONE");
    await eventually(() => expect(adapter.health().connected).toBe(true));

    await publish(adapter, topic, "b");
  });

  test("with replicas asked for, a publish is confirmed when they have it and unknown when they have not", async () => {
    const topic = unique("replicas");
    const { adapter } = await openAdapter({ replicas: 1, commandTimeout: "2s" });
    const batch = [outgoing(topic, message("a"))];

    const [alone] = await adapter.publish(batch);
    expect(alone).toMatchObject({
      status: "unknown",
      error: { message: expect.stringContaining("0 of 1 replicas") },
    });
    await second.up();
    const replica = rawClient(second.url);
    onTestFinished(async () => void (await replica.replicaof("NO", "ONE")));
    await replica.replicaof("127.0.0.1", new URL(server.url).port);
    const confirmed = await eventually(async () => {
      const [result] = await adapter.publish(batch);
      expect(result?.status).toBe("accepted");
      return result;
    });

    expect(confirmed).toMatchObject({ duplicate: true });
    expect(await replica.xlen(`{${topic}}`)).toBe(1);
    const [lesser] = await adapter.publish([outgoing(topic, message("b"), { durability: "accepted" })]);
    expect(lesser?.status).toBe("accepted");
  });

  test("a publish without confirmation arrives all the same, and says when it failed", async () => {
    const [topic, wrong] = [unique("none"), unique("none")];
    const { adapter, events } = await openAdapter();
    const sink = collect();
    await subscribe(adapter, topic, sink, { prefetch: 1_000 });
    await rawClient().set(`{${wrong}}`, "no stream");

    for (let i = 0; i < 200; i++) {
      const results = await adapter.publish([outgoing(topic, message(String(i)), { durability: "none" })]);
      expect(results).toEqual([{ status: "accepted", durability: "none" }]);
    }
    await adapter.publish([outgoing(wrong, message("lost"), { durability: "none" })]);

    await sink.atLeast(200);
    expect(sink.texts()).toEqual(Array.from({ length: 200 }, (_, i) => String(i)));
    await eventually(() =>
      expect(events).toContainEqual(expect.objectContaining({ type: "warning", code: "REDIS_UNCONFIRMED" })),
    );
  });

  test("what was published before SCRIPT FLUSH and after is in order", async () => {
    const topic = unique("scripts");
    const { adapter } = await openAdapter();
    const client = rawClient();

    await publish(adapter, topic, "a");
    await client.script("FLUSH");
    await Promise.all([publish(adapter, topic, "b", "c"), publish(adapter, topic, "d", "e")]);

    const entries = (await client.xrange(`{${topic}}`, "-", "+")) as [string, string[]][];
    const bodies = entries.map(([, fields]) => fields[fields.indexOf("data") + 1]);
    expect(bodies).toEqual(["a", "b", "c", "d", "e"]);
  });

  test("a large batch is divided, and each message has its own result", async () => {
    const topic = unique("large");
    const { adapter } = await openAdapter();
    const body = Buffer.alloc(700_000, 1);
    const batch = Array.from({ length: 6 }, (_, i) =>
      outgoing(topic, message("", { body, attributes: { id: i === 3 ? "id-2" : `id-${i}` } })),
    );

    const results = await adapter.publish(batch);

    expect(results.map((result) => result.status === "accepted" && result.duplicate)).toEqual([
      false,
      false,
      false,
      true,
      false,
      false,
    ]);
    expect(await rawClient().xlen(`{${topic}}`)).toBe(5);
  });

  test("a message with more headers than a script can pass on is refused, its neighbours are not", async () => {
    const topic = unique("headers");
    const { adapter } = await openAdapter();
    const sink = collect();
    await subscribe(adapter, topic, sink);
    const headers = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`h${i}`, `${i}`]));

    const results = await adapter.publish(
      [3_400, 3_600, 1].map((count) => outgoing(topic, message(String(count), { headers: headers(count) }))),
    );

    expect(results).toMatchObject([
      { status: "accepted" },
      { status: "rejected", error: { retryable: false } },
      { status: "accepted" },
    ]);
    const [many] = await sink.atLeast(2);
    expect({ ...many?.message.headers }).toEqual(headers(3_400));
  });

  test("a message for one group reaches that group only, and once", async () => {
    const topic = unique("direct");
    const { adapter } = await openAdapter();
    const [ours, others] = [collect(), collect()];
    const subscription = await subscribe(adapter, topic, ours);
    await subscribe(adapter, topic, others, { group: "other" });
    const direct = outgoing(topic, message("again"), { destination: { topic: topicOf(topic), group: "g" } });

    await adapter.publish([direct]);
    const [repeated] = await adapter.publish([direct]);
    await publish(adapter, topic, "fence");
    await Promise.all([ours.atLeast(2), others.atLeast(1)]);

    expect(repeated).toMatchObject({ status: "accepted", duplicate: true });
    expect(ours.texts().toSorted()).toEqual(["again", "fence"]);
    expect(others.texts()).toEqual(["fence"]);
    expect(await subscription.ack(ours.delivered)).toEqual([{ status: "done" }, { status: "done" }]);
  });

  test("errors name no body and no key", async () => {
    const topic = unique("secret");
    const { adapter } = await openAdapter();
    await rawClient().set(`{${topic}}`, "no stream");

    const [result] = await adapter.publish([outgoing(topic, message("a secret"))]);
    const declared: unknown = await adapter
      .declare({ topics: [topicOf(topic)], groups: [] })
      .catch((e: unknown) => e);

    expect(result?.status).toBe("rejected");
    expect(MessagingError.is(declared) && declared.code).toBe("ERR_TOPOLOGY");
    expect(JSON.stringify([result, declared], withHidden)).not.toContain("a secret");
  });
}

async function pending(client: ReturnType<typeof rawClient>, topic: string): Promise<number> {
  const [count] = (await client.xpending(`{${topic}}`, "g")) as [number];
  return count;
}

/** Errors with all that is on them, causes included. */
function withHidden(_name: string, value: unknown): unknown {
  if (!(value instanceof Error)) return value;
  return Object.fromEntries(
    Object.getOwnPropertyNames(value).map((name) => [name, value[name as "message"]]),
  );
}
