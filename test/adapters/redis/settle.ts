import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import {
  collect,
  message,
  openAdapter,
  outgoing,
  pendingOf,
  publish,
  rawClient,
  subscribe,
  textOf,
  throughProxy,
  unique,
} from "./bench.ts";

export function settling(): void {
  test("who lost a message to somebody else can do nothing to it", async () => {
    const topic = unique("zombie");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const [zombies, ours] = [collect(), collect()];
    const zombie = await subscribe(adapter, topic, zombies, { leaseMs: 1_000, prefetch: 5 });
    await publish(adapter, topic, "a", "b", "c", "d", "e");
    const [a, b, c, d, e] = await zombies.atLeast(5);
    const heir = await subscribe(adapter, topic, ours, { leaseMs: 1_000 });
    await ours.atLeast(5);
    const before = await pendingOf(client, `{${topic}}`);

    expect(await zombie.ack([a!])).toEqual([{ status: "stale" }]);
    expect(await zombie.defer(b!, 0, {})).toEqual({ status: "stale" });
    expect(await zombie.deadLetter(c!, {})).toEqual({ status: "stale" });
    expect(await zombie.release([d!])).toEqual([{ status: "stale" }]);
    expect(await zombie.extend([e!])).toEqual([{ status: "stale" }]);

    expect(zombies.gone).toEqual([e]);
    expect(await pendingOf(client, `{${topic}}`)).toEqual(before);
    expect(await client.exists(`{${topic}}--g--dead`, `{${topic}}--g--delayed`)).toBe(0);
    expect(ours.delivered.map(({ redeliveries }) => redeliveries)).toEqual([1, 1, 1, 1, 1]);
    const settled = await heir.ack(ours.delivered.slice(0, 5));
    expect(settled.every(({ status }) => status === "done")).toBe(true);
  });

  test("a settle whose answer was lost is found done when it is repeated, not stale", async () => {
    const topic = unique("unanswered");
    const proxy = await throughProxy();
    const { adapter } = await openAdapter({ url: proxy.url, commandTimeout: 500 });
    const client = rawClient();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);
    await publish(adapter, topic, "a", "b", "c");
    const [a, b, c] = await sink.atLeast(3);

    const heal = proxy.holdReplies();
    const first = await Promise.all([
      subscription.ack([a!]),
      subscription.defer(b!, 60_000, {}),
      subscription.deadLetter(c!, {}),
    ]);
    expect(first).toMatchObject([[{ status: "failed" }], { status: "failed" }, { status: "failed" }]);
    await heal();
    await eventually(() => expect(adapter.health().connected).toBe(true));

    expect(await subscription.ack([a!])).toEqual([{ status: "done" }]);
    expect(await subscription.defer(b!, 60_000, {})).toEqual({ status: "done" });
    expect(await subscription.deadLetter(c!, {})).toEqual({ status: "done" });
    expect(await client.zcard(`{${topic}}--g--delayed`)).toBe(1);
    expect(await client.xlen(`{${topic}}--g--dead`)).toBe(1);
    expect(await pendingOf(client, `{${topic}}`)).toEqual([]);
  });

  test("a message that somebody deletes while it is handled can still be retried and dead-lettered", async () => {
    const topic = unique("orphans");
    const { adapter, events } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);
    await publish(adapter, topic, "a", "b", "c", "d");
    const [a, b, c, d] = await sink.atLeast(4);

    await client.xtrim(`{${topic}}`, "MAXLEN", 0);
    const extended = await subscription.extend([a!, b!, c!, d!]);
    expect(extended.map(({ status }) => status)).toEqual(["done", "done", "done", "done"]);
    expect(events).toContainEqual(expect.objectContaining({ type: "warning", code: "REDIS_DELETED" }));
    expect(await subscription.ack([a!])).toEqual([{ status: "done" }]);
    expect(await subscription.defer(b!, 0, { "pr-failures": "1" })).toEqual({ status: "done" });
    expect(await subscription.deadLetter(c!, {})).toEqual({ status: "done" });
    expect(await subscription.release([d!])).toEqual([{ status: "done" }]);

    await sink.atLeast(6);
    expect(sink.texts().slice(4).toSorted()).toEqual(["b", "d"]);
    expect(await client.xlen(`{${topic}}--g--dead`)).toBe(1);
  });

  test("a deferred copy comes back to its group only, not before its time, and with the key it had", async () => {
    const topic = unique("defer");
    const { adapter } = await openAdapter();
    const [ours, others] = [collect(), collect()];
    const subscription = await subscribe(adapter, topic, ours);
    await subscribe(adapter, topic, others, { group: "other" });
    const wire = message("a", {
      attributes: { id: "1", partitionkey: "k" },
      headers: { tenant: "acme" },
      key: "k",
    });
    await adapter.publish([outgoing(topic, wire)]);
    const [first] = await ours.atLeast(1);

    const deferredAt = performance.now();
    await subscription.defer(first!, 700, { "pr-failures": "1" });
    await ours.atLeast(2);
    const waited = performance.now() - deferredAt;

    expect(waited).toBeGreaterThanOrEqual(699);
    const { message: again, redeliveries } = ours.delivered[1]!;
    expect({ ...again.attributes }).toEqual({ id: "1", partitionkey: "k" });
    expect({ ...again.headers }).toEqual({ tenant: "acme", "pr-failures": "1" });
    expect([again.key, textOf({ message: again }), redeliveries]).toEqual(["k", "a", 0]);
    expect(others.delivered).toHaveLength(1);
  });

  test("a deferred copy survives the consumer that deferred it", async () => {
    const topic = unique("defer-leave");
    const { adapter } = await openAdapter();
    const [before, after] = [collect(), collect()];
    const first = await subscribe(adapter, topic, before);
    await publish(adapter, topic, "a");
    const [a] = await before.atLeast(1);
    await first.defer(a!, 300, {});
    await first.close();

    await subscribe(adapter, topic, after);
    await after.atLeast(1);

    expect(after.texts()).toEqual(["a"]);
  });

  test("what is given back is taken by somebody else soon, in its place and uncounted", async () => {
    const topic = unique("release");
    const { adapter } = await openAdapter();
    const [ours, others] = [collect(), collect()];
    const subscription = await subscribe(adapter, topic, ours, { prefetch: 2 });
    await publish(adapter, topic, "a", "b");
    await ours.atLeast(2);
    subscription.pause();
    await subscribe(adapter, topic, others);

    expect(await subscription.release(ours.delivered)).toEqual([{ status: "done" }, { status: "done" }]);
    await others.atLeast(2);

    expect(others.texts()).toEqual(["a", "b"]);
    expect(others.delivered.map(({ redeliveries }) => redeliveries)).toEqual([0, 0]);
  });

  test("many acknowledgements at once, out of order and some of them stale, each have their result", async () => {
    const topic = unique("many");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink, { prefetch: 2_000 });
    for (let i = 0; i < 1_200; i += 200)
      await publish(adapter, topic, ...Array.from({ length: 200 }, (_, n) => String(i + n)));
    await sink.atLeast(1_200);
    const stolen = sink.delivered.filter((_, i) => i % 100 === 7);
    await client.xclaim(`{${topic}}`, "g", "thief", 0, ...stolen.map(({ position }) => position));

    const results = await subscription.ack(sink.delivered.toReversed());

    const expected = sink.delivered.toReversed().map((one) => (stolen.includes(one) ? "stale" : "done"));
    expect(results.map(({ status }) => status)).toEqual(expected);
    expect(await pendingOf(client, `{${topic}}`)).toHaveLength(stolen.length);
  });
}
