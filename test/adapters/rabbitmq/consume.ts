import { type BusEvent, defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import {
  collect,
  controller,
  fill,
  numbered,
  openAdapter,
  openBus,
  rawChannel,
  rawConfirmChannel,
  specOf,
  textOf,
  throughProxy,
  unique,
} from "./bench.ts";

export function consuming(): void {
  describe("after its connection was cut", () => {
    test("a delivery is reported lost, settles nothing any more, and comes again", async () => {
      const proxy = await throughProxy();
      const { adapter } = await openAdapter({ url: proxy.url });
      const spec = specOf("stale", { prefetch: 1 });
      const sink = collect();
      const subscription = await adapter.subscribe(spec, sink);
      await fill(spec, ["one", "two"]);
      await eventually(() => expect(sink.texts()).toEqual(["one"]));

      await proxy.cut();
      await eventually(() => expect(sink.texts()).toEqual(["one", "one"]));
      const [old, again] = sink.delivered;
      const results = [
        ...(await subscription.ack([old!])),
        await subscription.defer(old!, 1, {}),
        await subscription.deadLetter(old!, {}),
        ...(await subscription.release([old!])),
        ...(await subscription.extend([old!])),
      ];

      expect(sink.gone).toEqual([old]);
      expect(results.map(({ status }) => status)).toEqual(Array(5).fill("stale"));
      // With a window of one, "two" would have come if anything of this had settled "one".
      expect(await subscription.extend([again!])).toEqual([{ status: "done" }]);
      expect(sink.texts()).toEqual(["one", "one"]);
      expect(again!.redeliveries).toBe(1);
      expect(await subscription.ack([again!])).toEqual([{ status: "done" }]);
      await eventually(() => expect(sink.texts()).toEqual(["one", "one", "two"]));
    });
  });

  test("a consumer whose queue is deleted says so and consumes again", async () => {
    const { bus, events } = openBus();
    const topic = defineTopic<number>(unique("deleted"));
    const handled: number[] = [];
    const consumer = await bus.consume(topic, { group: "g" }, (n) => void handled.push(n));
    await bus.publish(topic, 1);
    await eventually(() => expect(handled).toEqual([1]));
    const raw = await rawChannel();

    await raw.deleteQueue(`${topic.name}--g`);

    await eventually(() =>
      expect(events).toContainEqual(expect.objectContaining({ type: "lost", topic: topic.name, group: "g" })),
    );
    await eventually(async () => {
      await bus.publish(topic, 2);
      expect(handled).toContain(2);
    });
    expect(consumer.health().consuming).toBe(true);
  });

  test("a consumer that the server ends because a message was held too long says so and goes on", async ({
    skip,
  }) => {
    const ctl = controller() ?? skip();
    const limit = (timeoutMs: number, tickMs: number): void =>
      ctl(
        "eval",
        `[application:set_env(rabbit, K, V) || {K, V} <- [{consumer_timeout, ${timeoutMs}}, {channel_tick_interval, ${tickMs}}]].`,
      );
    limit(1_000, 500);
    onTestFinished(() => limit(1_800_000, 60_000));
    const { adapter, events } = await openAdapter();
    const spec = specOf("held");
    const sink = collect();
    const subscription = await adapter.subscribe(spec, sink);
    await fill(spec, ["one"]);

    await eventually(() => expect(sink.texts()).toEqual(["one", "one"]));

    expect(sink.gone).toEqual([sink.delivered[0]]);
    expect(subscription.health()).toEqual({ consuming: true, error: undefined, silentMs: 0 });
    expect(events).toContainEqual(
      expect.objectContaining({ type: "warning", message: expect.stringContaining("timed out") as string }),
    );
    expect(JSON.stringify(events)).not.toContain("other settings");
  });

  describe("while its connection looks well, with heartbeats and all", () => {
    /** Runs Erlang in the server with `Q` the queue of group `g`. */
    const withQueue = (ctl: (...args: string[]) => void, topic: string, erlang: string): void =>
      ctl(
        "eval",
        `{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"${topic}--g">>)), ${erlang}.`,
      );
    const consumers = "rabbit_amqqueue:consumers(Q)";
    const ofConsumers = `C <- ${consumers}`;

    const saidIn = (events: readonly BusEvent[]): string =>
      events.map((event) => ("error" in event ? event.error : JSON.stringify(event))).join("\n");

    const deaf = [
      {
        what: "a channel that is not answered any more",
        erlang: `[sys:suspend(element(1, C)) || ${ofConsumers}]`,
        why: "is not answered any more",
      },
      {
        what: "a consumer that the server has forgotten",
        erlang: `[ra:process_command(amqqueue:get_pid(Q), rabbit_fifo:make_checkout({element(2, C), element(1, C)}, cancel, #{})) || ${ofConsumers}]`,
        why: "none has come to its consumer",
      },
    ];
    test.for(deaf)(
      "$what is noticed, and replaced: what waits is handled",
      { timeout: 120_000 },
      async (given, { skip }) => {
        const ctl = controller() ?? skip();
        const { bus, events } = openBus();
        const topic = defineTopic<number>(unique("deaf"));
        const handled = new Set<number>();
        await bus.consume(topic, { group: "g" }, (n) => void handled.add(n));
        await bus.publish(topic, 1);
        await eventually(() => expect([...handled]).toEqual([1]));
        expect(bus.health().ready).toBe(true);

        // The server may take a moment to list a consumer that it feeds already.
        await eventually(() => withQueue(ctl, topic.name, `[_ | _] = ${consumers}, ${given.erlang}`));
        await bus.publish(topic, 2);

        // It may be replaced within a blink: what was said of it stays.
        await eventually(() => expect(saidIn(events)).toContain(given.why), 60_000);
        await eventually(() => expect([...handled]).toEqual([1, 2]), 60_000);
        await eventually(() => expect(bus.health().ready).toBe(true));
      },
    );
  });

  test("no more than the window is ever handed over, also over a pause", async () => {
    const { adapter } = await openAdapter();
    const spec = specOf("window", { prefetch: 5 });
    const sink = collect();
    const subscription = await adapter.subscribe(spec, sink);
    await fill(spec, numbered(30));
    await eventually(() => expect(sink.delivered).toHaveLength(5));

    subscription.pause();
    await subscription.ack(sink.delivered.slice(0, 2));
    subscription.resume();
    await eventually(() => expect(sink.delivered).toHaveLength(7));
    // A round trip on the same server: whatever it would still hand over has had its time.
    const raw = await rawChannel();
    await raw.checkQueue(`${spec.topic.name}--g`);

    expect(sink.delivered).toHaveLength(7);
    await subscription.ack(sink.delivered.slice(2));
    await eventually(() => expect(sink.delivered).toHaveLength(12));
  });

  test("what is settled in any order is settled, and nothing else", async () => {
    const { adapter } = await openAdapter();
    const spec = specOf("acks", { prefetch: 100 });
    const sink = collect();
    const subscription = await adapter.subscribe(spec, sink);
    await fill(spec, numbered(100));
    await eventually(() => expect(sink.delivered).toHaveLength(100));

    const kept = new Set([0, 17, 50, 51, 99]);
    const acked = sink.delivered.filter((_, i) => !kept.has(i));
    const shuffled = acked.toSorted((a, b) => (textOf(a) < textOf(b) ? -1 : 1));
    for (let i = 0; i < shuffled.length; i += 7) {
      const results = await subscription.ack(shuffled.slice(i, i + 7));
      expect(results.every(({ status }) => status === "done")).toBe(true);
    }
    expect(await subscription.ack(shuffled.slice(0, 3))).toEqual([1, 2, 3].map(() => ({ status: "stale" })));
    await subscription.close();

    const second = collect();
    await adapter.subscribe(spec, second);
    await eventually(() => expect(second.texts()).toEqual(["m0", "m17", "m50", "m51", "m99"]));
  });

  test("what was settled right before it closed does not come again", async () => {
    const { adapter } = await openAdapter();
    const spec = specOf("flush", { prefetch: 200 });
    await adapter.declare({ topics: [], groups: [spec] });
    const sent = numbered(4_000);
    await fill(spec, sent);
    const settled: string[] = [];
    while (settled.length < sent.length) {
      const sink = collect();
      const subscription = await adapter.subscribe(spec, sink);
      await eventually(() => expect(sink.delivered).toHaveLength(200));
      await subscription.stop();
      for (const delivery of sink.delivered) void subscription.ack([delivery]);
      await subscription.close();
      settled.push(...sink.texts());
    }

    expect(settled.toSorted()).toEqual(sent.toSorted());
  }, 60_000);

  test("a stopped subscription hands over nothing and still settles; closed, it gives back the rest", async () => {
    const { adapter } = await openAdapter();
    const spec = specOf("stop", { prefetch: 3 });
    const sink = collect();
    const subscription = await adapter.subscribe(spec, sink);
    await fill(spec, numbered(6));
    await eventually(() => expect(sink.delivered).toHaveLength(3));

    await subscription.stop();
    expect(await subscription.ack([sink.delivered[1]!])).toEqual([{ status: "done" }]);
    await subscription.close();
    expect(await subscription.ack([sink.delivered[2]!])).toEqual([{ status: "stale" }]);

    expect(sink.delivered).toHaveLength(3);
    const second = collect();
    await adapter.subscribe({ ...spec, prefetch: 10 }, second);
    await eventually(() => expect(second.texts().toSorted()).toEqual(["m0", "m2", "m3", "m4", "m5"]));
  });

  test("a message of a stranger is handled, retried and dead-lettered like any other", async () => {
    const { bus } = openBus();
    const topic = defineTopic<{ n: number }>(unique("foreign"));
    const seen: unknown[] = [];
    await bus.consume(
      topic,
      { group: "g", holdBelow: 0, retry: { maxAttempts: 2, backoff: () => 1 } },
      (payload, { message, attempt }) => {
        seen.push([payload, attempt, message.id, { ...message.headers }]);
        throw new Error("no");
      },
    );
    const raw = await rawConfirmChannel();
    const headers = { tenant: "acme", priority: 5, tags: ["a", "b"] };

    raw.publish(topic.name, "anything", Buffer.from('{"n":1}'), { headers, expiration: "60000" });
    await raw.waitForConfirms();
    const [letter] = await eventually(async () => {
      const found = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
      expect(found).toHaveLength(1);
      return found;
    });

    const id = letter?.message.id ?? "";
    const text = { tenant: "acme", priority: "5", tags: '["a","b"]' };
    expect(seen).toEqual([
      [{ n: 1 }, 1, id, text],
      [{ n: 1 }, 2, id, text],
    ]);
    expect(id).toContain(`${topic.name}:`);
    expect({ ...letter?.message.headers }).toEqual(text);
  });
}
