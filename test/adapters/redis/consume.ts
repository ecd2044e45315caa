import { defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import {
  collect,
  message,
  openAdapter,
  openBus,
  outgoing,
  pendingOf,
  publish,
  rawClient,
  server,
  subscribe,
  textOf,
  throughProxy,
  topicOf,
  unique,
} from "./bench.ts";

export function consuming(): void {
  test("what was read but lost on the way is handed over after the connection is back, uncounted", async () => {
    const topic = unique("lost-read");
    const proxy = await throughProxy();
    const [{ adapter }, { adapter: direct }] = [await openAdapter({ url: proxy.url }), await openAdapter()];
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);
    await publish(direct, topic, "held");
    await sink.atLeast(1);
    const client = rawClient();

    proxy.holdReplies();
    await publish(direct, topic, "a", "b");
    await eventually(async () => expect(await pendingOf(client, `{${topic}}`)).toHaveLength(3));
    expect(sink.texts()).toEqual(["held"]);
    await proxy.close();
    await proxy.cut();
    const again = await reopened(proxy.port);
    await sink.atLeast(3);
    await again.close();

    expect(sink.texts().toSorted()).toEqual(["a", "b", "held"]);
    expect(sink.delivered.map(({ redeliveries }) => redeliveries)).toEqual([0, 0, 0]);
    expect(sink.gone).toEqual([]);
    void subscription;
  });

  test("a reader that gets no answer is replaced, and health says so meanwhile", async () => {
    const topic = unique("silent");
    const proxy = await throughProxy();
    const [{ adapter, events }, { adapter: direct }] = [
      await openAdapter({ url: proxy.url, commandTimeout: 300, connectTimeout: 1_000 }),
      await openAdapter(),
    ];
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);

    const heal = proxy.holdReplies();
    await eventually(() => expect(subscription.health().consuming).toBe(false));
    await publish(direct, topic, "a");
    await heal();
    await sink.atLeast(1);

    expect(sink.texts()).toEqual(["a"]);
    await eventually(() => expect(subscription.health().consuming).toBe(true));
    expect(subscription.health().error).toBeUndefined();
    const types = events.map(({ type }) => type);
    expect(types.filter((type) => type === "disconnected")).toHaveLength(
      types.filter((type) => type === "connected").length - 1,
    );
  });

  for (const [what, destroy] of [
    [
      "the database was emptied",
      async (client: ReturnType<typeof rawClient>) => void (await client.flushall()),
    ],
    [
      "the stream was deleted",
      async (client: ReturnType<typeof rawClient>, key: string) => void (await client.del(key)),
    ],
    [
      "the group was destroyed",
      async (client: ReturnType<typeof rawClient>, key: string) =>
        void (await client.xgroup("DESTROY", key, "g")),
    ],
  ] as const) {
    test(`after ${what} it consumes again, and says that messages were lost`, async () => {
      const topic = unique("vanished");
      const { adapter, events } = await openAdapter();
      const sink = collect();
      const subscription = await subscribe(adapter, topic, sink);
      await publish(adapter, topic, "a", "b");
      const [a] = await sink.atLeast(2);

      await destroy(rawClient(), `{${topic}}`);
      expect(await subscription.ack([a!])).toEqual([{ status: "stale" }]);
      await eventually(() =>
        expect(events.find(({ type }) => type === "lost")).toMatchObject({ topic, group: "g" }),
      );
      await publish(adapter, topic, "c");
      await eventually(() => expect(sink.texts()).toContain("c"));

      expect(sink.gone.map(textOf)).toContain("b");
      expect(subscription.health().consuming).toBe(true);
    });
  }

  test("pending messages that somebody trimmed away are reported as lost, with their number", async () => {
    const topic = unique("trimmed");
    const { adapter, events } = await openAdapter();
    const client = rawClient();
    await adapter.declare({ topics: [], groups: [{ topic: topicOf(topic), group: "g" }] });
    await publish(adapter, topic, "a", "b", "c");
    await client.xreadgroup("GROUP", "g", "crashed", "COUNT", 3, "STREAMS", `{${topic}}`, ">");
    await client.xtrim(`{${topic}}`, "MAXLEN", 1);

    const sink = collect();
    await subscribe(adapter, topic, sink, { leaseMs: 1_000 });
    await sink.atLeast(1);

    expect(sink.texts()).toEqual(["c"]);
    expect(sink.delivered[0]?.redeliveries).toBe(1);
    await eventually(() =>
      expect(events.find(({ type }) => type === "lost")).toMatchObject({ topic, group: "g", count: 2 }),
    );
    expect(await pendingOf(client, `{${topic}}`)).toHaveLength(1);
  });

  test("no more is handed over than asked for, from both streams together", async () => {
    for (const prefetch of [1, 2, 3]) {
      const topic = unique("window");
      const { adapter } = await openAdapter();
      const sink = collect();
      await adapter.declare({ topics: [], groups: [{ topic: topicOf(topic), group: "g" }] });
      await publish(adapter, topic, ...Array.from({ length: 10 }, (_, i) => `main-${i}`));
      const direct = { destination: { topic: topicOf(topic), group: "g" } };
      await adapter.publish(
        Array.from({ length: 10 }, (_, i) => outgoing(topic, message(`own-${i}`), direct)),
      );
      let most = 0;
      let open = 0;
      const subscription = await subscribe(
        adapter,
        topic,
        {
          deliver(deliveries) {
            sink.deliver(deliveries);
            open += deliveries.length;
            most = Math.max(most, open);
          },
          lost: () => undefined,
        },
        { prefetch },
      );

      for (let settled = 0; settled < 20; settled++) {
        await sink.atLeast(settled + 1);
        const delivery = sink.delivered[settled]!;
        open -= 1;
        expect(await subscription.ack([delivery])).toEqual([{ status: "done" }]);
      }

      expect(most).toBe(prefetch);
      expect(new Set(sink.texts()).size).toBe(20);
      expect(sink.delivered.length).toBe(20);
      expect(sink.delivered.every(({ redeliveries }) => redeliveries === 0)).toBe(true);
    }
  });

  test("nothing is handed over while paused, and what came meanwhile is not kept from others", async () => {
    const topic = unique("paused");
    const { adapter } = await openAdapter();
    const [paused, other] = [collect(), collect()];
    const subscription = await subscribe(adapter, topic, paused);

    subscription.pause();
    await publish(adapter, topic, "a");
    await subscribe(adapter, topic, other);
    await other.atLeast(1);
    expect(other.delivered[0]?.redeliveries).toBe(0);
    expect(paused.delivered).toEqual([]);
    subscription.resume();
    await publish(adapter, topic, "b", "c", "d");

    await eventually(() =>
      expect([...paused.texts(), ...other.texts()].toSorted()).toEqual(["a", "b", "c", "d"]),
    );
  });

  test("a message is taken over when its consumer has gone, and counted", async () => {
    const topic = unique("crashed");
    const { adapter } = await openAdapter();
    const client = rawClient();
    await adapter.declare({ topics: [], groups: [{ topic: topicOf(topic), group: "g" }] });
    await publish(adapter, topic, "a");
    await client.xreadgroup("GROUP", "g", "crashed", "COUNT", 1, "STREAMS", `{${topic}}`, ">");
    await client.xclaim(
      `{${topic}}`,
      "g",
      "crashed-again",
      0,
      (await pendingOf(client, `{${topic}}`))[0]!.id,
    );

    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink, { leaseMs: 1_000 });
    await sink.atLeast(1);

    expect(sink.delivered[0]?.redeliveries).toBe(2);
    expect(await subscription.ack(sink.delivered)).toEqual([{ status: "done" }]);
  });

  for (const order of ["none", "key"] as const) {
    test(`what may have ended its processes is handed over alone (order ${order})`, async () => {
      const topic = unique("suspects");
      const key = `{${topic}}`;
      const { adapter } = await openAdapter();
      const client = rawClient();
      await adapter.declare({ topics: [], groups: [{ topic: topicOf(topic), group: "g" }] });
      await publish(adapter, topic, "a", "b", "c", "d", "e", "f");
      await client.xreadgroup("GROUP", "g", "crashed", "COUNT", 4, "STREAMS", key, ">");
      for (const [index, count] of [1, 3, 3, 1].entries()) {
        const { id } = (await pendingOf(client, key))[index]!;
        await client.call(
          "XCLAIM",
          key,
          "g",
          "crashed",
          "0",
          id,
          "TIME",
          "1",
          "RETRYCOUNT",
          String(count),
          "JUSTID",
        );
      }
      const sink = collect();
      const open = new Set<string>();
      const company: Record<string, string[]> = {};
      const subscription = await subscribe(
        adapter,
        topic,
        {
          deliver(deliveries) {
            for (const delivery of deliveries) open.add(textOf(delivery));
            for (const delivery of deliveries) company[textOf(delivery)] = [...open];
            sink.deliver(deliveries);
          },
          lost: () => undefined,
        },
        { order, leaseMs: 1_000 },
      );

      for (let n = 0; n < 6; n++) {
        const delivery = (await sink.atLeast(n + 1))[n]!;
        open.delete(textOf(delivery));
        expect(await subscription.ack([delivery])).toEqual([{ status: "done" }]);
      }

      expect(sink.texts().toSorted()).toEqual(["a", "b", "c", "d", "e", "f"]);
      expect([company["b"], company["c"]]).toEqual([["b"], ["c"]]);
      const counts = Object.fromEntries(sink.delivered.map((one) => [textOf(one), one.redeliveries]));
      expect(counts).toEqual({ a: 1, b: 3, c: 3, d: 1, e: 0, f: 0 });
      if (order === "key") expect(sink.texts()).toEqual(["a", "b", "c", "d", "e", "f"]);
    });
  }

  test("a handler that outlives its lease keeps its message: nobody else runs it", async () => {
    const topic = defineTopic<string>(unique("long"));
    const [first, other] = [openBus(), openBus()];
    const runs: string[] = [];
    let finish = (): void => undefined;
    const running = new Promise<void>((resolve) => (finish = resolve));
    for (const { bus } of [first, other]) {
      await bus.consume(topic, { group: "g", lease: "1s" }, async (payload) => {
        runs.push(payload);
        await running;
      });
    }
    const client = rawClient();
    await first.bus.publish(topic, "a");
    await eventually(() => expect(runs).toEqual(["a"]));

    // Every extension is a claim with another time; three leases go by.
    const startedAt = performance.now();
    await eventually(() => expect(performance.now() - startedAt).toBeGreaterThan(3_000));
    expect((await pendingOf(client, `{${topic.name}}`))[0]?.count).toBe(1);
    finish();

    const handled = (): number =>
      [...first.events, ...other.events].filter(({ type }) => type === "handled").length;
    await eventually(() => expect(handled()).toBe(1));
    expect(runs).toEqual(["a"]);
  });

  test("a subscription that closes leaves no consumer, and gives back what it did not settle, uncounted", async () => {
    const topic = unique("leaving");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const [leaving, staying] = [collect(), collect()];
    const subscription = await subscribe(adapter, topic, leaving, { prefetch: 3 });
    await publish(adapter, topic, "a", "b", "c");
    const [a] = await leaving.atLeast(3);
    await subscription.ack([a!]);

    await subscription.close();
    const consumers = (await client.xinfo("CONSUMERS", `{${topic}}`, "g")) as unknown[];
    expect(JSON.stringify(consumers)).not.toContain(String(process.pid));
    await subscribe(adapter, topic, staying);
    await staying.atLeast(2);

    expect(staying.texts()).toEqual(["b", "c"]);
    expect(staying.delivered.map(({ redeliveries }) => redeliveries)).toEqual([0, 0]);
  });

  test("closing takes no longer than it should when the server does not answer", async () => {
    const topic = unique("closing");
    const proxy = await throughProxy();
    const { adapter } = await openAdapter({ url: proxy.url });
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);
    await publish(adapter, topic, "a");
    await sink.atLeast(1);

    proxy.holdReplies();
    await subscription.close();
    await adapter.close();

    expect(subscription.health().consuming).toBe(false);
  });

  test("an idle consumer receives after the server was restarted", async () => {
    const topic = unique("restart");
    const { adapter, events } = await openAdapter();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);
    await publish(adapter, topic, "a");
    const [a] = await sink.atLeast(1);

    await server.kill();
    await eventually(() => expect(subscription.health().consuming).toBe(false));
    await server.start();
    await eventually(() => expect(subscription.health().consuming).toBe(true));
    await eventually(() => expect(adapter.health().connected).toBe(true));
    // The delivery is leased, not bound to the connection: it is still ours.
    expect(await subscription.ack([a!])).toEqual([{ status: "done" }]);
    await publish(adapter, topic, "b");
    await sink.atLeast(2);

    expect(sink.texts()).toEqual(["a", "b"]);
    expect(sink.gone).toEqual([]);
    expect(events.map(({ type }) => type)).toEqual(
      expect.arrayContaining(["connected", "disconnected", "reconnecting", "connected"]),
    );
  });
}

/** The same proxy port again, after it was closed. */
async function reopened(port: number): Promise<{ close(): Promise<void> }> {
  const { startFaultProxy } = await import("../../support/fault-proxy.ts");
  const { hostname, port: target } = new URL(server.url);
  return startFaultProxy({ target: { host: hostname, port: Number(target) }, port });
}
