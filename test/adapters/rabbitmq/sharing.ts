import { type Bus, defineTopic, type Topic } from "postrider";
import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import { nodeRuntime } from "../../../src/clock.ts";
import { openBus, rawChannel, rawConfirmChannel, throughProxy, unique } from "./bench.ts";

interface Step {
  readonly key: string;
  readonly n: number;
}

const keys = Array.from({ length: 16 }, (_, i) => `key-${i}`);
const steps = (from: number, to: number): Step[] =>
  Array.from({ length: to - from }, (_, i) => keys.map((key): Step => ({ key, n: from + i }))).flat();

const options = { group: "g", order: "key", concurrency: 16, prefetch: 64 } as const;

function topicOf(name: string, partitions?: number): Topic<Step, Step, true> {
  return defineTopic<Step>(unique(name), { key: ({ key }) => key, partitions });
}

/** Who handled what. */
function watch(): {
  readonly handled: (Step & { readonly by: string })[];
  join(bus: Bus, topic: Topic<Step, Step, true>, by: string): ReturnType<Bus["consume"]>;
  by(name: string): number;
  /** All of every key, in order, each once. */
  expectExactly(count: number): void;
} {
  const handled: (Step & { readonly by: string })[] = [];
  return {
    handled,
    join: (bus, topic, by) =>
      bus.consume(topic, options, async (step) => {
        await nodeRuntime.sleep(1);
        handled.push({ ...step, by });
      }),
    by: (name) => handled.filter(({ by }) => by === name).length,
    expectExactly(count) {
      for (const key of keys)
        expect(handled.filter((step) => step.key === key).map(({ n }) => n)).toEqual([
          ...Array(count).keys(),
        ]);
    },
  };
}

/** Resolves when a queue is there and somebody consumes it. */
async function untilConsumed(queue: string): Promise<void> {
  let raw = await rawChannel();
  await eventually(async () => {
    const { consumerCount } = await raw.checkQueue(queue).catch(async (error: unknown) => {
      raw = await rawChannel();
      throw error;
    });
    expect(consumerCount).toBe(1);
  });
}

export function sharing(): void {
  test("what was sent before a group had partitions is handled first, and nothing twice or not at all", async () => {
    const topic = topicOf("before");
    const [first, second, sender] = [openBus().bus, openBus().bus, openBus().bus];
    await sender.declare({ groups: { g: [topic] } });
    await sender.publishAll(topic, steps(0, 100));
    const log = watch();
    let sent = 100;
    let sending = true;
    const flow = (async () => {
      for (; sending; sent += 1) {
        await sender.publishAll(topic, steps(sent, sent + 1));
        await nodeRuntime.sleep(10);
      }
    })();

    await log.join(first, topic, "first");
    await log.join(second, topic, "second");
    await eventually(() => expect(log.by("first")).toBeGreaterThan(0));
    await eventually(() => expect(log.by("second")).toBeGreaterThan(0));
    sending = false;
    await flow;

    await eventually(() => expect(log.handled).toHaveLength(sent * keys.length), 30_000);
    log.expectExactly(sent);
  }, 60_000);

  test("a backlog is shared with who joins, and nothing is handled twice for it", async () => {
    const topic = topicOf("backlog");
    const [first, second, third, sender] = [openBus().bus, openBus().bus, openBus().bus, openBus().bus];
    const log = watch();
    await log.join(first, topic, "first");
    await untilConsumed(`${topic.name}--g--p7`);
    await sender.publishAll(topic, steps(0, 200));
    await eventually(() => expect(log.by("first")).toBeGreaterThan(100));

    await log.join(second, topic, "second");
    await log.join(third, topic, "third");
    // The backlog goes on for as long as it takes to share it out.
    let sent = 200;
    await eventually(async () => {
      await sender.publishAll(topic, steps(sent, sent + 5));
      sent += 5;
      for (const name of ["second", "third"]) expect(log.by(name)).toBeGreaterThan(0);
    }, 30_000);

    await eventually(() => expect(log.handled).toHaveLength(sent * keys.length), 30_000);
    log.expectExactly(sent);
    expect((await (await rawChannel()).checkQueue(`${topic.name}--g--members`)).consumerCount).toBe(3);
    for (let i = 0; i < 8; i++) await untilConsumed(`${topic.name}--g--p${i}`);
  }, 60_000);

  test("with more instances than can have the same number, each has some all the same", async () => {
    const topic = topicOf("uneven", 4);
    const log = watch();
    const names = ["a", "b", "c"];
    for (const name of names) await log.join(openBus().bus, topic, name);
    const sender = openBus().bus;

    let sent = 0;
    await eventually(async () => {
      await sender.publishAll(topic, steps(sent, sent + 1));
      sent += 1;
      for (const name of names) expect(log.by(name)).toBeGreaterThan(0);
    }, 30_000);
    await eventually(() => expect(log.handled).toHaveLength(sent * keys.length));
    log.expectExactly(sent);
  }, 60_000);

  test("the others take over when the connection of one is cut, and the order holds", async () => {
    const topic = topicOf("cut");
    const proxy = await throughProxy();
    const [first, second, sender] = [openBus({ url: proxy.url }).bus, openBus().bus, openBus().bus];
    const log = watch();
    await log.join(first, topic, "first");
    await log.join(second, topic, "second");
    let sent = 0;
    await eventually(async () => {
      await sender.publishAll(topic, steps(sent, sent + 5));
      sent += 5;
      expect(log.by("first")).toBeGreaterThan(100);
      expect(log.by("second")).toBeGreaterThan(100);
    }, 30_000);

    await sender.publishAll(topic, steps(sent, sent + 50));
    await proxy.close();

    const firsts = (key: string): number[] => [
      ...new Set(log.handled.filter((step) => step.key === key).map(({ n }) => n)),
    ];
    await eventually(() => {
      for (const key of keys) expect(firsts(key)).toHaveLength(sent + 50);
    });
    for (const key of keys) expect(firsts(key)).toEqual([...Array(sent + 50).keys()]);
  }, 60_000);

  test("a partition goes to another instance only when what runs of it has ended", async () => {
    const topic = topicOf("quiet", 2);
    const { bus } = openBus();
    const running = new Set<string>();
    let overlaps = 0;
    const go = Promise.withResolvers<void>();
    const handled: number[] = [];
    const join = (on: Bus): Promise<unknown> =>
      on.consume(topic, options, async ({ key, n }) => {
        if (running.has(key)) overlaps += 1;
        running.add(key);
        await go.promise;
        running.delete(key);
        handled.push(n);
      });
    await join(bus);
    await untilConsumed(`${topic.name}--g--p0`);
    await untilConsumed(`${topic.name}--g--p1`);
    await bus.publishAll(topic, steps(0, 1));
    await eventually(() => expect(running.size).toBe(keys.length));

    await join(openBus().bus);
    // It is counted: the other has been asked to let go.
    const raw = await rawChannel();
    const members = `${topic.name}--g--members`;
    await eventually(async () => expect((await raw.checkQueue(members)).consumerCount).toBe(2));
    await bus.publishAll(topic, steps(1, 2));
    expect(running.size).toBe(keys.length);
    go.resolve();

    await eventually(() => expect(handled).toHaveLength(2 * keys.length));
    expect(overlaps).toBe(0);
  }, 60_000);

  test("with fewer partitions than before, and with more, nothing is forgotten", async () => {
    const name = unique("changing");
    // A bus takes one definition of a topic: each has its own.
    const of = (partitions: number): { bus: Bus; topic: Topic<Step, Step, true> } => ({
      bus: openBus().bus,
      topic: defineTopic<Step>(name, { key: ({ key }) => key, partitions }),
    });
    let sent = 0;
    const send = async (partitions: number): Promise<void> => {
      const { bus, topic } = of(partitions);
      for (const step of steps(sent, sent + 2)) await bus.publish(topic, step);
      sent += 2;
    };
    const log = watch();
    const join = (partitions: number): ReturnType<Bus["consume"]> => {
      const { bus, topic } = of(partitions);
      return log.join(bus, topic, String(partitions));
    };
    const allHandled = (): Promise<void> =>
      eventually(() => expect(log.handled).toHaveLength(sent * keys.length));
    const four = await join(4);
    await untilConsumed(`${name}--g--p3`);
    await four.close();
    await send(4);

    for (const partitions of [2, 1, 8]) {
      const consumer = await join(partitions);
      await allHandled();
      await send(16);
      await allHandled();
      await consumer.close();
      await send(4);
    }
    await join(2);
    await allHandled();
    expect(log.by("2")).toBeGreaterThan(4 * keys.length);
  }, 60_000);

  test("a group with partitions is not consumed without order, which would miss its messages", async () => {
    const topic = topicOf("kind", 2);
    const { bus } = openBus();
    const ordered = await watch().join(bus, topic, "ordered");
    await untilConsumed(`${topic.name}--g--p1`);
    await ordered.close();

    await expect(bus.consume(topic, { group: "g" }, () => undefined)).rejects.toMatchObject({
      code: "ERR_TOPOLOGY",
      message: expect.stringContaining('order: "key"') as string,
    });
  }, 60_000);

  test("messages of strangers, of no key, and to the group alone arrive as well", async () => {
    const topic = defineTopic<Step>(unique("strangers"), {
      key: ({ key }) => (key === "" ? undefined : key),
      partitions: 4,
    });
    const { bus } = openBus();
    const seen: number[] = [];
    let failing = true;
    await bus.consume(
      topic,
      { ...options, holdBelow: 0, retry: { maxAttempts: 2, backoff: () => 300 } },
      ({ key, n }, { attempt }) => {
        if (failing && (key === "fails" || attempt === 1)) throw new Error("not yet");
        seen.push(n);
      },
    );
    await untilConsumed(`${topic.name}--g--p3`);
    const raw = await rawConfirmChannel();
    raw.publish(topic.name, "anything", Buffer.from(JSON.stringify({ key: "x", n: 100 })), {
      contentType: "application/json",
      mandatory: true,
    });
    await raw.waitForConfirms();
    for (let n = 0; n < 8; n++) await bus.publish(topic, { key: "", n });
    await bus.publish(topic, { key: "fails", n: 50 });

    await eventually(() => expect(seen.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 100]));
    failing = false;
    const letters = bus.deadLetters(topic, { group: "g" });
    await eventually(async () => expect(await Array.fromAsync(letters.list())).toHaveLength(1));
    await letters.redrive();
    await eventually(() => expect(seen).toContain(50));
  }, 60_000);

  test("a partition whose queue is deleted is made again, and the loss is said", async () => {
    const topic = topicOf("gone", 2);
    const { bus, events } = openBus();
    const log = watch();
    await log.join(bus, topic, "one");
    await untilConsumed(`${topic.name}--g--p0`);
    await (await rawChannel()).deleteQueue(`${topic.name}--g--p0`);
    await bus.publishAll(topic, steps(0, 5));

    await eventually(() => expect(log.handled).toHaveLength(5 * keys.length));
    await eventually(() =>
      expect(events).toContainEqual(expect.objectContaining({ type: "lost", topic: topic.name, group: "g" })),
    );
    await untilConsumed(`${topic.name}--g--p0`);
  }, 60_000);

  test("a topic of one partition has no more queues than before", async () => {
    const topic = topicOf("single", 1);
    const { bus } = openBus();
    const log = watch();
    await log.join(bus, topic, "one");
    await bus.publishAll(topic, steps(0, 5));
    await eventually(() => expect(log.handled).toHaveLength(5 * keys.length));

    for (const name of ["p0", "members", "drained"]) {
      const raw = await rawChannel();
      await expect(raw.checkQueue(`${topic.name}--g--${name}`)).rejects.toThrow("NOT_FOUND");
    }
  });
}
