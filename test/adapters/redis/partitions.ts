import type { Redis } from "ioredis";
import { eventually } from "postrider/testing";
import { expect, onTestFinished, test } from "vitest";
import type { RawDelivery, Subscription } from "../../../src/spi.ts";
import {
  collect,
  openAdapter,
  pendingOf,
  publishSteps,
  rawClient,
  subscribe,
  textOf,
  throughProxy,
  topicOf,
  unique,
} from "./bench.ts";

const ordered = { order: "key", leaseMs: 60_000, partitions: 8 } as const;
/** With two partitions, `a` and `f` are in one, `d` and `e` in the other. */
const two = { ...ordered, partitions: 2 } as const;
const letters = "abcdefghijkl".split("");

export function partitions(): void {
  test("partitions are shared out evenly, whoever comes and goes, and nothing moves without need", async () => {
    const topic = unique("shares");
    const client = rawClient();
    const join = async () => subscribe((await openAdapter()).adapter, topic, collect(), ordered);
    const shares = async () => [...(await ownersOf(client, topic, 8)).values()].toSorted((a, b) => a - b);

    const first = await join();
    await eventually(async () => expect(await shares()).toEqual([8]));
    const second = await join();
    await eventually(async () => expect(await shares()).toEqual([4, 4]));
    const before = await values(client, topic, 8);
    await join();
    await eventually(async () => expect(await shares()).toEqual([2, 3, 3]));
    const after = await values(client, topic, 8);
    expect(after.filter((value, i) => value !== before[i])).toHaveLength(2);
    await first.close();
    await eventually(async () => expect(await shares()).toEqual([4, 4]));
    await second.close();
    await eventually(async () => expect(await shares()).toEqual([8]));
  });

  test("more instances than partitions: the rest stand by, and one of them goes on", async () => {
    const topic = unique("stand-by");
    const client = rawClient();
    const sinks = [collect(), collect(), collect()];
    const subscriptions: Subscription[] = [];
    for (const sink of sinks)
      subscriptions.push(await subscribe((await openAdapter()).adapter, topic, sink, two));
    await eventually(async () => expect([...(await ownersOf(client, topic, 2)).values()]).toEqual([1, 1]));
    const { adapter } = await openAdapter();
    await publishSteps(adapter, topic, "a1", "d1");
    await eventually(() => expect(sinks.flatMap((sink) => sink.texts()).toSorted()).toEqual(["a1", "d1"]));

    const idle = sinks.findIndex(({ delivered }) => delivered.length === 0);
    const busy = sinks.findIndex((sink) => sink.texts().includes("a1"));
    await subscriptions[busy]!.close();
    await sinks[idle]!.atLeast(1);

    expect(sinks[idle]!.texts()).toEqual(["a1"]);
    expect(sinks[idle]!.delivered[0]?.redeliveries).toBe(0);
  });

  test("a partition goes to a newcomer only when nothing of it is being handled any more", async () => {
    const topic = unique("quiet");
    const { adapter } = await openAdapter();
    /** What is with somebody and not settled. */
    const open: { readonly of: Subscription; readonly delivery: RawDelivery }[] = [];
    const wrong: string[] = [];
    const join = async (): Promise<Subscription> => {
      const of: Subscription = await subscribe(
        (await openAdapter()).adapter,
        topic,
        {
          deliver(deliveries) {
            for (const delivery of deliveries) {
              const isElsewhere = open.some(
                (other) => other.of !== of && other.delivery.message.key === delivery.message.key,
              );
              if (isElsewhere) wrong.push(textOf(delivery));
              open.push({ of, delivery });
            }
          },
          lost: (deliveries) => void wrong.push(...deliveries.map(textOf)),
        },
        ordered,
      );
      return of;
    };
    const handled: string[] = [];
    const byNewcomer: string[] = [];
    let newcomer: Subscription | undefined;
    const handle = async (): Promise<void> => {
      await eventually(() => expect(open.length).toBeGreaterThan(0));
      for (const entry of open.slice()) {
        handled.push(textOf(entry.delivery));
        if (entry.of === newcomer) byNewcomer.push(textOf(entry.delivery));
        expect(await entry.of.ack([entry.delivery])).toEqual([{ status: "done" }]);
        open.splice(open.indexOf(entry), 1);
      }
    };

    await join();
    let rounds = 1;
    await publishSteps(adapter, topic, ...letters.map((key) => `${key}${rounds}`));
    await eventually(() => expect(open).toHaveLength(letters.length));
    newcomer = await join();
    while (byNewcomer.length < 3 * letters.length) {
      rounds += 1;
      await publishSteps(adapter, topic, ...letters.map((key) => `${key}${rounds}`));
      while (handled.length < rounds * letters.length) await handle();
    }

    expect(wrong).toEqual([]);
    for (const key of letters) {
      const numbers = handled.filter((step) => step.startsWith(key)).map((step) => Number(step.slice(1)));
      expect(numbers).toEqual(Array.from({ length: rounds }, (_, i) => i + 1));
    }
  });

  test("a partition that does not become quiet stays where it is, and what is behind is read on", async () => {
    const topic = unique("busy");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const [first, newcomer] = [collect(), collect()];
    const owner = await subscribe(adapter, topic, first, { ...two, leaseMs: 1_000 });
    await publishSteps(adapter, topic, "a1", "d1");
    await first.atLeast(2);
    await subscribe((await openAdapter()).adapter, topic, newcomer, { ...two, leaseMs: 1_000 });
    await eventually(async () => expect(await client.zcard(`{${topic}}--g--members`)).toBe(2));

    const aliveUntil = async () =>
      Number((await client.zrange(`{${topic}}--g--members`, "-1", "-1", "WITHSCORES"))[1]);
    const joinedUntil = await aliveUntil();
    for (let n = 2; (await aliveUntil()) < joinedUntil + 2_000; n++) {
      await publishSteps(adapter, topic, `f${n}`, `e${n}`);
      await first.atLeast(2 * n);
      await owner.ack(first.delivered.slice(2 * n - 2));
    }

    expect(newcomer.delivered).toEqual([]);
    expect(first.gone).toEqual([]);
  });

  test("when one of two instances goes without a word, the other takes its partitions and keeps its own", async () => {
    const topic = unique("crash");
    const proxy = await throughProxy();
    const [{ adapter: frozen }, { adapter }] = [await openAdapter({ url: proxy.url }), await openAdapter()];
    const client = rawClient();
    const [lost, kept] = [collect(), collect()];
    const zombie = await subscribe(frozen, topic, lost, { ...ordered, leaseMs: 2_000 });
    const heir = await subscribe(adapter, topic, kept, { ...ordered, leaseMs: 2_000 });
    await eventually(async () => expect([...(await ownersOf(client, topic, 8)).values()]).toEqual([4, 4]));
    await publishSteps(adapter, topic, ...letters.map((key) => `${key}1`));
    await eventually(() => expect(lost.delivered.length + kept.delivered.length).toBe(letters.length));
    const own = kept.texts();
    expect(own.length).toBeLessThan(letters.length);

    const heal = proxy.holdReplies();
    await publishSteps(adapter, topic, ...letters.map((key) => `${key}2`));
    await kept.atLeast(2 * letters.length);
    await heal();

    expect(kept.gone).toEqual([]);
    for (const key of letters)
      expect(kept.texts().filter((step) => step.startsWith(key))).toEqual([`${key}1`, `${key}2`]);
    const again = kept.delivered.filter(({ redeliveries }) => redeliveries > 0).map(textOf);
    expect(again).toEqual(expect.arrayContaining(lost.texts()));
    expect(again.filter((step) => own.includes(step))).toEqual([]);
    // Its time is over, also for what it finds out only now.
    const late = await zombie.ack(lost.delivered);
    expect(late.map(({ status }) => status)).toEqual(late.map(() => "stale"));
    const results = await heir.ack(kept.delivered);
    expect(results.map(({ status }) => status)).toEqual(results.map(() => "done"));
  });

  test("a message that is read past goes to the queue of its partition, and waits there for who reads it", async () => {
    const topic = unique("queue");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const [slow, fast] = [collect(), collect()];
    const blocked = await subscribe(adapter, topic, slow, { ...two, prefetch: 1 });
    await subscribe((await openAdapter()).adapter, topic, fast, { ...two, prefetch: 50 });
    await eventually(async () => expect([...(await ownersOf(client, topic, 2)).values()]).toEqual([1, 1]));
    await publishSteps(adapter, topic, "a1", "d1");
    await Promise.all([slow.atLeast(1), fast.atLeast(1)]);
    const key = textOf(slow.delivered[0]!).slice(0, 1);
    const other = key === "a" ? "d" : "a";
    await publishSteps(adapter, topic, `${key}2`, `${key}3`, `${other}2`, `${key}4`, `${other}3`);
    await fast.atLeast(3);

    expect(slow.texts()).toEqual([`${key}1`]);
    for (let n = 1; n <= 4; n++) {
      const delivered = await slow.atLeast(n);
      expect(delivered[n - 1]!.redeliveries).toBe(0);
      expect(await blocked.ack([delivered[n - 1]!])).toEqual([{ status: "done" }]);
    }

    expect(slow.texts()).toEqual([1, 2, 3, 4].map((n) => `${key}${n}`));
    expect(fast.texts()).toEqual([1, 2, 3].map((n) => `${other}${n}`));
  });

  test("another number of partitions is used when nobody reads: nothing is lost, and each key goes on in order", async () => {
    const topic = unique("resized");
    const { adapter, events } = await openAdapter();
    const client = rawClient();
    const [before, meanwhile, after] = [collect(), collect(), collect()];
    const first = await subscribe(adapter, topic, before, ordered);
    const steps = [1, 2, 3, 4].flatMap((n) => letters.map((key) => `${key}${n}`));
    await publishSteps(adapter, topic, ...steps);
    await before.atLeast(steps.length);

    const refused = await subscribe(adapter, topic, meanwhile, { ...ordered, partitions: 3 });
    await eventually(() =>
      expect(events).toContainEqual(expect.objectContaining({ type: "warning", code: "REDIS_PARTITIONS" })),
    );
    expect(await client.get(`{${topic}}--g--partitions`)).toBe("8");
    expect(first.health().consuming && refused.health().consuming).toBe(true);
    await Promise.all([first.close(), refused.close()]);
    expect(await pendingOf(client, `{${topic}}`)).toHaveLength(steps.length);
    const subscription = await subscribe(adapter, topic, after, { ...ordered, partitions: 3 });
    await after.atLeast(steps.length);

    expect(await client.get(`{${topic}}--g--partitions`)).toBe("3");
    for (const key of letters)
      expect(after.texts().filter((step) => step.startsWith(key))).toEqual(
        [1, 2, 3, 4].map((n) => `${key}${n}`),
      );
    expect(after.delivered.every(({ redeliveries }) => redeliveries === 0)).toBe(true);
    const results = await subscription.ack(after.delivered);
    expect(results.every(({ status }) => status === "done")).toBe(true);
    expect(await pendingOf(client, `{${topic}}`)).toEqual([]);
  });

  test("what is pending from reading without order comes first, and each key goes on in order", async () => {
    const topic = unique("reordered");
    const { adapter } = await openAdapter();
    const client = rawClient();
    await adapter.declare({ topics: [], groups: [{ topic: topicOf(topic), group: "g" }] });
    await publishSteps(adapter, topic, ...letters.map((key) => `${key}1`));
    await client.xreadgroup("GROUP", "g", "crashed", "COUNT", 6, "STREAMS", `{${topic}}`, ">");
    const sink = collect();
    const competing = await subscribe(adapter, topic, collect(), { prefetch: 3 });
    await eventually(async () => expect(await pendingOf(client, `{${topic}}`)).toHaveLength(9));
    await competing.close();
    await publishSteps(adapter, topic, ...letters.map((key) => `${key}2`));

    await subscribe(adapter, topic, sink, ordered);
    await sink.atLeast(2 * letters.length);

    for (const key of letters)
      expect(sink.texts().filter((step) => step.startsWith(key))).toEqual([`${key}1`, `${key}2`]);
    const counted = sink.delivered.filter(({ redeliveries }) => redeliveries > 0).map(textOf);
    expect(counted.toSorted()).toEqual(letters.slice(0, 6).map((key) => `${key}1`));
  });

  test("on a full server who reads goes on reading, also when somebody leaves", async () => {
    const topic = unique("full");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink, ordered);
    const leaving = await subscribe((await openAdapter()).adapter, topic, collect(), ordered);
    await eventually(async () => expect([...(await ownersOf(client, topic, 8)).values()]).toEqual([4, 4]));
    await publishSteps(adapter, topic, ...letters.map((key) => `${key}1`));
    const { delivered } = sink;
    await sink.atLeast(1);
    onTestFinished(async () => void (await client.config("SET", "maxmemory", "512mb")));

    await client.config("SET", "maxmemory", "1mb");
    await leaving.close();
    const left = [...(await ownersOf(client, topic, 8)).values()];
    expect(left).toEqual([4]);
    const members = `{${topic}}--g--members`;
    const owned = (await values(client, topic, 8)).findIndex((value) => value !== null);
    const owner = `{${topic}}--g--owner-${owned}-of-8`;
    for (let n = 0; n < 3; n++) {
      await client.pexpire(owner, 30_000);
      await eventually(async () => expect(await client.pttl(owner)).toBeGreaterThan(30_000));
    }
    expect(await client.zcard(members)).toBe(1);
    const first = delivered.slice();
    const results = await subscription.ack(first);
    expect(results.every(({ status }) => status === "done")).toBe(true);
    expect(sink.gone).toEqual([]);
    await client.config("SET", "maxmemory", "512mb");

    await eventually(async () => expect([...(await ownersOf(client, topic, 8)).values()]).toEqual([8]));
    await sink.atLeast(letters.length);
  });

  test("after the database was emptied the partitions are shared out anew", async () => {
    const topic = unique("emptied");
    const { adapter, events } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    await subscribe(adapter, topic, sink, ordered);
    await publishSteps(adapter, topic, "a1", "d1");
    await sink.atLeast(2);

    await client.flushall();
    await eventually(() =>
      expect(events.find(({ type }) => type === "lost")).toMatchObject({ topic, group: "g" }),
    );
    await publishSteps(adapter, topic, "a2", "d2");
    await sink.atLeast(4);

    expect(sink.gone.map(textOf).toSorted()).toEqual(["a1", "d1"]);
    expect(sink.texts().slice(2).toSorted()).toEqual(["a2", "d2"]);
    await eventually(async () => expect([...(await ownersOf(client, topic, 8)).values()]).toEqual([8]));
  });
}

async function values(client: Redis, topic: string, count: number): Promise<(string | null)[]> {
  return client.mget(Array.from({ length: count }, (_, i) => `{${topic}}--g--owner-${i}-of-${count}`));
}

/** How many partitions each member owns. */
async function ownersOf(client: Redis, topic: string, count: number): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const value of await values(client, topic, count)) {
    if (value === null) continue;
    const member = value.slice(value.indexOf(":") + 1);
    counts.set(member, (counts.get(member) ?? 0) + 1);
  }
  return counts;
}
