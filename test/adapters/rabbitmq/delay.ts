import { constant, defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import { maxDelayMs } from "../../../adapters/rabbitmq/delay.ts";
import { collect, openAdapter, openBus, rawChannel, throughProxy, unique } from "./bench.ts";

export function delaying(): void {
  test("what the longest retry delay needs is there as soon as a consumer is", async () => {
    const prefix = `${unique("ready")}.`;
    const { bus } = openBus({}, { prefix });
    const retry = { backoff: constant("2s") };
    await bus.consume(defineTopic("ready"), { group: "g", retry }, () => undefined);

    const raw = await rawChannel();
    for (const step of ["250ms", "500ms", "1s", "2s"])
      await raw.checkQueue(`${prefix}postrider--delay-${step}`);
  });

  test("no delay of 1 ms to 10 s ends early, whatever its bits", async () => {
    const { bus } = openBus();
    const topic = defineTopic<number>(unique("delays"));
    const waited = new Map<number, number>();
    const sent = new Map<number, number>();
    await bus.consume(topic, { group: "g", holdBelow: 0, concurrency: 100 }, (ms) => {
      waited.set(ms, performance.now() - (sent.get(ms) ?? 0));
    });

    const delays = [1, 249, 250, 251, 500, 999, 1_000, 1_001, 1_750, 3_333, 4_000, 7_777, 9_999, 10_000];
    for (const ms of delays) sent.set(ms, performance.now());
    await Promise.all(delays.map((ms) => bus.publish(topic, ms, { delay: ms })));

    await eventually(() => expect([...waited.keys()].toSorted((a, b) => a - b)).toEqual(delays));
    for (const [ms, took] of waited) expect(took, `${ms} ms`).toBeGreaterThanOrEqual(ms - 2);
  }, 60_000);

  test("the longest delay is held by the server, and can be", async () => {
    const { adapter } = await openAdapter();
    const topic = { name: unique("long"), partitions: 1, keyed: false };
    const sink = collect();
    const spec = {
      topic,
      group: "g",
      order: "none",
      prefetch: 1,
      leaseMs: 1_000,
      maxRetryDelayMs: 0,
    } as const;
    const subscription = await adapter.subscribe(spec, sink);
    const raw = await rawChannel();
    raw.sendToQueue(`${topic.name}--g`, Buffer.from("later"));
    await eventually(() => expect(sink.delivered).toHaveLength(1));

    const result = await subscription.defer(sink.delivered[0]!, maxDelayMs, {});

    expect(result).toEqual({ status: "done" });
    expect(adapter.capabilities.maxDelayMs).toBeGreaterThanOrEqual(30 * 86_400_000);
    // 2^23 times 250 ms is its highest bit; nothing else in this test suite waits that long.
    const { messageCount } = await raw.checkQueue("postrider--delay-2097152s");
    expect(messageCount).toBeGreaterThan(0);
    await raw.purgeQueue("postrider--delay-2097152s");
  });

  test("a deferred message goes to its own group only, unchanged, and again and again", async () => {
    const { bus } = openBus();
    const topic = defineTopic<number>(unique("rounds"));
    const attempts: number[] = [];
    const others: number[] = [];
    await bus.consume(topic, { group: "other" }, (n) => void others.push(n));
    await bus.consume(
      topic,
      { group: "g", holdBelow: 0, retry: { maxAttempts: 6, backoff: () => 10 } },
      (_n, { attempt, message }) => {
        attempts.push(attempt);
        expect({ ...message.headers }).toEqual({ tenant: "acme" });
        // More rounds through one queue than the server's detection of circles would let pass.
        if (attempt < 6) throw new Error("again");
      },
    );

    await bus.publish(topic, 7, { headers: { tenant: "acme" } });

    await eventually(() => expect(attempts).toEqual([1, 2, 3, 4, 5, 6]));
    expect(others).toEqual([7]);
  });

  test("while a copy is not confirmed the original stays, and is settled after it", async () => {
    const proxy = await throughProxy();
    const { adapter } = await openAdapter({ url: proxy.url });
    const topic = { name: unique("copy"), partitions: 1, keyed: false };
    const sink = collect();
    const spec = {
      topic,
      group: "g",
      order: "none",
      prefetch: 1,
      leaseMs: 1_000,
      maxRetryDelayMs: 0,
    } as const;
    const subscription = await adapter.subscribe(spec, sink);
    const raw = await rawChannel();
    raw.sendToQueue(`${topic.name}--g`, Buffer.from("one"));
    await eventually(() => expect(sink.delivered).toHaveLength(1));
    await subscription.defer(sink.delivered[0]!, 1, {});
    await eventually(() => expect(sink.delivered).toHaveLength(2));

    const heal = proxy.holdReplies();
    const dead = subscription.deadLetter(sink.delivered[1]!, {});
    await eventually(async () =>
      expect((await raw.checkQueue(`${topic.name}--g--dead`)).messageCount).toBe(1),
    );
    await proxy.cut();
    await heal();

    expect(await dead).toMatchObject({ status: "failed" });
    await eventually(() => expect(sink.delivered).toHaveLength(3));
    expect(sink.texts()).toEqual(["one", "one", "one"]);
  });
}
