import { type Bus, defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { describe, expect, test } from "vitest";
import { nodeRuntime } from "../../../src/clock.ts";
import type { RawDelivery, Subscription } from "../../../src/spi.ts";
import {
  collect,
  fill,
  numbered,
  openAdapter,
  openBus,
  rawChannel,
  specOf,
  throughProxy,
  unique,
} from "./bench.ts";

interface Step {
  readonly key: string;
  readonly n: number;
}

const keys = ["a", "b", "c", "d"];
const steps = (count: number): Step[] =>
  Array.from({ length: count }, (_, n) => keys.map((key): Step => ({ key, n }))).flat();

/** Takes down who handled what, and whether two ever had one key at a time. */
function watch(): {
  readonly handled: (Step & { readonly by: string })[];
  overlaps: number;
  handler(by: string): (step: Step) => Promise<void>;
} {
  const running = new Set<string>();
  const log = {
    handled: [] as (Step & { readonly by: string })[],
    overlaps: 0,
    handler: (by: string) => async (step: Step) => {
      if (running.has(step.key)) log.overlaps += 1;
      running.add(step.key);
      await nodeRuntime.sleep(1);
      running.delete(step.key);
      log.handled.push({ ...step, by });
    },
  };
  return log;
}

/** The first time each step of a key was handled, in the order that happened. */
function firsts(handled: readonly Step[], key: string): number[] {
  return [...new Set(handled.filter((step) => step.key === key).map(({ n }) => n))];
}

const options = { group: "g", order: "key", concurrency: 8, prefetch: 50 } as const;

export function ordering(): void {
  test("what was on its way when a consumer stopped comes after what that consumer holds", async () => {
    const { adapter } = await openAdapter();
    const spec = specOf("stopped", { order: "key", prefetch: 50 });
    await adapter.declare({ topics: [], groups: [spec] });
    const sent = numbered(2_000);
    await fill(spec, sent);
    let handled = 0;
    // Each stops in the middle of the stream with some of it settled and the rest in its hands.
    for (let time = 1; time <= 10; time++) {
      const settled: RawDelivery[] = [];
      const { promise: enough, resolve: onEnough } = Promise.withResolvers<void>();
      const ready = Promise.withResolvers<Subscription>();
      const sink = collect((deliveries) => {
        if (settled.length >= 100) return onEnough();
        settled.push(...deliveries);
        void ready.promise.then((it) => it.ack(deliveries));
      });
      const subscription = await adapter.subscribe(spec, sink);
      ready.resolve(subscription);
      await enough;
      await subscription.stop();
      await subscription.close();

      const [first = ""] = sink.texts();
      const from = sent.indexOf(first);
      // What was settled in the last moment may come again.
      expect(from).toBeLessThanOrEqual(handled);
      expect(sink.texts()).toEqual(sent.slice(from, from + sink.delivered.length));
      handled = from + settled.length;
    }
  }, 60_000);

  test("what was held over a pause is given back in order", async () => {
    const { adapter } = await openAdapter();
    const spec = specOf("paused", { order: "key", prefetch: 20 });
    const sink = collect();
    const subscription = await adapter.subscribe(spec, sink);
    await fill(spec, numbered(60));
    await eventually(() => expect(sink.delivered).toHaveLength(20));
    for (let time = 1; time <= 5; time++) {
      subscription.pause();
      await subscription.ack(sink.delivered.slice(-1));
      subscription.resume();
      await eventually(() => expect(sink.delivered).toHaveLength(20 + time));
    }
    await subscription.close();

    const rest = collect();
    await adapter.subscribe({ ...spec, prefetch: 100 }, rest);
    const settled = new Set(numbered(25).slice(19, 24));
    await eventually(() => expect(rest.texts()).toEqual(numbered(60).filter((text) => !settled.has(text))));
  }, 60_000);

  describe("of two ordered instances of a topic with one partition", () => {
    test("one works and the other takes over when it closes, with no overlap and in order", async () => {
      const topic = defineTopic<Step>(unique("turns"), { key: ({ key }) => key, partitions: 1 });
      const [first, second, sender] = [openBus().bus, openBus().bus, openBus().bus];
      const log = watch();
      const one = await first.consume(topic, options, log.handler("first"));
      await second.consume(topic, options, log.handler("second"));

      const sent = sender.publishAll(topic, steps(100));
      await eventually(() => expect(log.handled.length).toBeGreaterThan(80));
      expect(log.handled.every(({ by }) => by === "first")).toBe(true);
      await one.close();
      await sent;

      await eventually(() => expect(log.handled.length).toBe(400));
      expect(log.overlaps).toBe(0);
      expect(log.handled.some(({ by }) => by === "second")).toBe(true);
      for (const key of keys)
        expect(log.handled.filter((step) => step.key === key).map(({ n }) => n)).toEqual([
          ...Array(100).keys(),
        ]);
    }, 60_000);

    test("the other takes over when the connection of the one is cut, and the order holds", async () => {
      const topic = defineTopic<Step>(unique("cut"), { key: ({ key }) => key, partitions: 1 });
      const proxy = await throughProxy();
      const first = openBus({ url: proxy.url }).bus;
      const [second, sender] = [openBus().bus, openBus().bus];
      const log = watch();
      await first.consume(topic, options, log.handler("first"));
      await second.consume(topic, options, log.handler("second"));

      const sent = sender.publishAll(topic, steps(100));
      await eventually(() => expect(log.handled.length).toBeGreaterThan(80));
      await proxy.close();
      await sent;

      await eventually(() => expect(new Set(log.handled.map(({ key, n }) => `${key} ${n}`)).size).toBe(400));
      expect(log.overlaps).toBe(0);
      for (const key of keys) expect(firsts(log.handled, key)).toEqual([...Array(100).keys()]);
    }, 60_000);

    test("they may share a bus", async () => {
      const topic = defineTopic<Step>(unique("shared"), { key: ({ key }) => key, partitions: 1 });
      const { bus } = openBus();
      const log = watch();
      const one = await bus.consume(topic, options, log.handler("first"));
      await bus.consume(topic, options, log.handler("second"));
      await bus.publishAll(topic, steps(25));
      await eventually(() => expect(log.handled.length).toBe(100));
      await one.close();
      await bus.publishAll(topic, steps(25));

      await eventually(() => expect(log.handled.length).toBe(200));
      expect(log.handled.slice(0, 100).every(({ by }) => by === "first")).toBe(true);
      expect(log.handled.slice(100).every(({ by }) => by === "second")).toBe(true);
    }, 60_000);
  });

  test("an ordered consumer stands by while somebody consumes the group without order, and says so", async () => {
    const topic = defineTopic<Step>(unique("mixed"), { key: ({ key }) => key });
    const [unordered, ordered] = [openBus(), openBus()];
    const handledBy: string[] = [];
    const before = await unordered.bus.consume(topic, { group: "g" }, () => void handledBy.push("unordered"));
    await ordered.bus.consume(topic, options, () => void handledBy.push("ordered"));

    await unordered.bus.publish(topic, { key: "a", n: 1 });
    await eventually(() => expect(handledBy).toEqual(["unordered"]));
    await eventually(() =>
      expect(ordered.events).toContainEqual(
        expect.objectContaining({ type: "warning", code: expect.stringContaining("ORDER_MIXED") as string }),
      ),
    );
    await before.close();
    await ordered.bus.publish(topic, { key: "a", n: 2 });

    await eventually(() => expect(handledBy).toEqual(["unordered", "ordered"]));
  }, 60_000);

  test("a consumer that closes before its turn has begun does not keep the turn", async () => {
    const topic = defineTopic<Step>(unique("early"), { key: ({ key }) => key });
    const { bus } = openBus();
    for (let time = 0; time < 10; time++) {
      const early = await bus.consume(topic, options, () => undefined);
      await early.close();
    }
    const handled: number[] = [];
    await openBus().bus.consume(topic, options, ({ n }) => void handled.push(n));
    await bus.publish(topic, { key: "a", n: 1 });

    await eventually(() => expect(handled).toEqual([1]));
  });

  test("the lock of the one who works is gone with it", async () => {
    const topic = defineTopic<Step>(unique("lock"), { key: ({ key }) => key });
    const bus: Bus = openBus().bus;
    const consumer = await bus.consume(topic, options, () => undefined);
    const lock = `${topic.name}--g--owner`;
    await eventually(async () => {
      const raw = await rawChannel();
      await expect(raw.checkQueue(lock)).rejects.toThrow("RESOURCE_LOCKED");
    });

    await consumer.close();

    const raw = await rawChannel();
    await expect(raw.checkQueue(lock)).rejects.toThrow("NOT_FOUND");
  });
}
