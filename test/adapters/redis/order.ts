import { defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import { nodeRuntime } from "../../../src/clock.ts";
import {
  collect,
  openAdapter,
  openBus,
  publish,
  rawClient,
  subscribe,
  textOf,
  throughProxy,
  unique,
} from "./bench.ts";

const ordered = { order: "key", leaseMs: 1_000 } as const;

export function ordering(): void {
  test("one of several instances reads, the others stand by, and one of them goes on at once when it closes", async () => {
    const topic = unique("hand-over");
    const { adapter } = await openAdapter();
    const [first, other] = [collect(), collect()];
    const owner = await subscribe(adapter, topic, first, { ...ordered, leaseMs: 600_000 });
    await publish(adapter, topic, "a", "b", "c");
    await first.atLeast(3);
    const standBy = await subscribe(adapter, topic, other, { ...ordered, leaseMs: 600_000 });
    await owner.ack(first.delivered.slice(0, 1));
    await publish(adapter, topic, "d");
    await first.atLeast(4);
    expect(other.delivered).toEqual([]);
    expect(standBy.health().consuming).toBe(true);

    await owner.close();
    await other.atLeast(3);

    expect(other.texts()).toEqual(["b", "c", "d"]);
    expect(other.delivered.map(({ redeliveries }) => redeliveries)).toEqual([0, 0, 0]);
  });

  test("when the reading instance goes without a word, another takes over what was pending first and in order", async () => {
    const topic = unique("fail-over");
    const proxy = await throughProxy();
    const [{ adapter: frozen }, { adapter }] = [await openAdapter({ url: proxy.url }), await openAdapter()];
    const [first, other] = [collect(), collect()];
    const zombie = await subscribe(frozen, topic, first, ordered);
    await publish(adapter, topic, "a", "b", "c");
    await first.atLeast(3);

    proxy.holdReplies();
    const heir = await subscribe(adapter, topic, other, { ...ordered, prefetch: 2 });
    await publish(adapter, topic, "d", "e");
    for (let n = 0; n < 5; n++) {
      await other.atLeast(n + 1);
      expect(await heir.ack([other.delivered[n]!])).toEqual([{ status: "done" }]);
    }

    expect(other.texts()).toEqual(["a", "b", "c", "d", "e"]);
    expect(other.delivered.map(({ redeliveries }) => redeliveries).slice(0, 3)).toEqual([1, 1, 1]);
    // Whatever becomes of its connection: it knows by its own clock that its time is over.
    await eventually(() => expect(first.gone).toHaveLength(3));
    void zombie;
  });

  test("who lost the group to somebody else can settle nothing, not even what nobody else has", async () => {
    const topic = unique("fenced");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink, { ...ordered, leaseMs: 60_000 });
    await publish(adapter, topic, "a", "b");
    const [a, b] = await sink.atLeast(2);

    subscription.pause();
    await client.set(`{${topic}}--g--owner-0-of-1`, "77:somebody");
    expect(await subscription.ack([a!])).toEqual([{ status: "stale" }]);
    expect(await subscription.defer(b!, 0, {})).toEqual({ status: "stale" });

    expect(((await client.xpending(`{${topic}}`, "g")) as [number])[0]).toBe(2);
    await client.del(`{${topic}}--g--owner-0-of-1`);
    subscription.resume();
    await sink.atLeast(4);
    expect(sink.texts()).toEqual(["a", "b", "a", "b"]);
  });

  test("who lost a partition and does not know it yet reads nothing of it", async () => {
    const topic = unique("unknowing");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    await subscribe(adapter, topic, sink, { ...ordered, leaseMs: 60_000 });
    await publish(adapter, topic, "a");
    await sink.atLeast(1);
    const aliveUntil = async () =>
      Number((await client.zrange(`{${topic}}--g--members`, "0", "0", "WITHSCORES"))[1]);

    const owner = `{${topic}}--g--owner-0-of-1`;
    await client.multi().set(owner, "77:somebody").xadd(`{${topic}}`, "*", "data", "b").exec();
    const before = await aliveUntil();
    await eventually(async () => expect(await aliveUntil()).toBeGreaterThan(before + 600));
    expect(sink.texts()).toEqual(["a"]);
    expect(sink.gone.map(textOf)).toEqual(["a"]);

    await client.del(owner);
    await sink.atLeast(3);
    expect(sink.texts()).toEqual(["a", "a", "b"]);
    expect(sink.delivered.map(({ redeliveries }) => redeliveries)).toEqual([0, 1, 0]);
  });

  test("each change of hands raises the epoch, and a lease that runs is not taken", async () => {
    const topic = unique("epoch");
    const { adapter } = await openAdapter();
    const client = rawClient();
    for (const epoch of ["1", "2", "3"]) {
      const subscription = await subscribe(adapter, topic, collect(), { ...ordered, leaseMs: 60_000 });
      await eventually(async () =>
        expect(await client.get(`{${topic}}--g--owner-0-of-1`)).toMatch(`${epoch}:`),
      );
      await subscription.close();
      expect(await client.exists(`{${topic}}--g--owner-0-of-1`)).toBe(0);
    }
  });

  test("a reading instance that loses its connection for a moment keeps the group and its deliveries", async () => {
    const topic = unique("blip");
    const proxy = await throughProxy();
    const [{ adapter }, { adapter: direct }] = [await openAdapter({ url: proxy.url }), await openAdapter()];
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink, { ...ordered, leaseMs: 10_000 });
    await publish(direct, topic, "a");
    const [a] = await sink.atLeast(1);

    await proxy.cut();
    await publish(direct, topic, "b");
    await sink.atLeast(2);

    expect(sink.gone).toEqual([]);
    expect(await subscription.ack([a!])).toEqual([{ status: "done" }]);
    expect(sink.texts()).toEqual(["a", "b"]);
    expect(sink.delivered.map(({ redeliveries }) => redeliveries)).toEqual([0, 0]);
  });

  test("keys never overlap and keep their order while instances come, freeze and go", async () => {
    const topic = defineTopic<{ key: string; n: number }>(unique("churn"), { key: ({ key }) => key });
    const sender = openBus().bus;
    const running = new Map<string, number>();
    const handled = new Map<string, number[]>();
    let overlaps = 0;
    const keys = ["x", "y", "z"];
    const open = async (url?: string) => {
      const { bus } = openBus(url === undefined ? {} : { url });
      await bus.consume(
        topic,
        { group: "g", order: "key", lease: "1s", concurrency: 8 },
        async ({ key, n }, { signal }) => {
          running.set(key, (running.get(key) ?? 0) + 1);
          if ((running.get(key) ?? 0) > 1) overlaps += 1;
          try {
            await nodeRuntime.sleep(2, signal);
            handled.set(key, [...(handled.get(key) ?? []), n]);
          } finally {
            running.set(key, (running.get(key) ?? 0) - 1);
          }
        },
      );
      return bus;
    };

    const first = await open();
    const proxy = await throughProxy();
    const frozen = await open(proxy.url);
    const steps = Array.from({ length: 150 }, (_, n) => keys.map((key) => ({ key, n }))).flat();
    await sender.publishAll(topic, steps);
    const total = (): number => [...handled.values()].reduce((sum, list) => sum + new Set(list).size, 0);
    await eventually(() => expect(total()).toBeGreaterThan(60));
    await first.close();
    await eventually(() => expect(total()).toBeGreaterThan(150));
    proxy.holdReplies();
    await open();
    await eventually(() => expect(total()).toBe(450), 60_000);

    expect(overlaps).toBe(0);
    for (const key of keys) {
      const list = handled.get(key) ?? [];
      // A message may come again when its instance froze; then all after it do too, in order.
      const fresh = list.filter((n, i) => !list.slice(0, i).includes(n));
      expect(fresh).toEqual(Array.from({ length: 150 }, (_, n) => n));
    }
    void frozen;
  }, 90_000);
}
