import { PublishError, defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import { controller, openAdapter, openBus, rawChannel, throughProxy, unique } from "./bench.ts";
import { headerMap, type OutgoingMessage, type TopicSpec } from "../../../src/spi.ts";

function outgoingTo(topic: TopicSpec, headers: Record<string, string> = {}): OutgoingMessage {
  return {
    destination: { topic },
    message: {
      attributes: headerMap({ id: "id-1" }),
      headers: headerMap(headers),
      key: undefined,
      body: null,
    },
    durability: "replicated",
    requireRoute: true,
  };
}

const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => new Error("it did not fail"),
    (error: unknown) => error,
  );

export function publishing(): void {
  test("a publish to an exchange that was deleted ends well, and stops neither other publishes nor consumers", async () => {
    const { bus } = openBus();
    const [gone, other] = [defineTopic<number>(unique("gone")), defineTopic<number>(unique("other"))];
    const handled: number[] = [];
    await bus.consume(gone, { group: "g" }, (n) => void handled.push(n));
    await bus.consume(other, { group: "g" }, (n) => void handled.push(n));
    const raw = await rawChannel();
    await raw.deleteExchange(gone.name);

    const publishes = [1, 2, 3, 4].map((n) => bus.publish(n % 2 === 0 ? other : gone, n));
    await Promise.all(publishes);

    await eventually(() => expect(new Set(handled)).toEqual(new Set([1, 2, 3, 4])));
  });

  test("a publish that was written and never confirmed ends as unknown, and the one after it as usual", async () => {
    const proxy = await throughProxy();
    const { bus } = openBus({ url: proxy.url });
    const topic = defineTopic<number>(unique("unconfirmed"));
    const handled: number[] = [];
    await bus.consume(topic, { group: "g", once: false }, (n) => void handled.push(n));
    await bus.publish(topic, 0);

    const heal = proxy.holdReplies();
    const error = await failure(bus.publish(topic, 1, { timeout: 300 }));
    await proxy.cut();
    await heal();
    await bus.publish(topic, 2);

    expect(error).toBeInstanceOf(PublishError);
    expect(error).toMatchObject({ accepted: "unknown" });
    await eventually(() => expect(handled).toContain(2));
  });

  test("what was written when the connection was lost is unknown, never refused", async () => {
    const proxy = await throughProxy();
    const { adapter } = await openAdapter({ url: proxy.url });
    const topic = { name: unique("lost"), partitions: 1, keyed: false };
    await adapter.declare({ topics: [topic], groups: [{ topic, group: "g" }] });
    await adapter.publish([outgoingTo(topic)]);
    const raw = await rawChannel();

    const heal = proxy.holdReplies();
    const publishing = adapter.publish([outgoingTo(topic), outgoingTo(topic)]);
    await eventually(async () => expect((await raw.checkQueue(`${topic.name}--g`)).messageCount).toBe(3));
    await proxy.cut();
    await heal();

    const results = await publishing;
    expect(results).toMatchObject([
      { status: "unknown", error: { code: "ERR_CONNECTION_LOST" } },
      { status: "unknown", error: { code: "ERR_CONNECTION_LOST" } },
    ]);
  });

  test("a confirmation that never comes on a living connection does not hold up the publisher for good", async () => {
    const proxy = await throughProxy();
    const { adapter, events } = await openAdapter({ url: proxy.url, confirmTimeout: "1s" });
    const topic = { name: unique("watchdog"), partitions: 1, keyed: false };
    await adapter.declare({ topics: [topic], groups: [{ topic, group: "g" }] });
    const outgoing = outgoingTo(topic);
    await adapter.publish([outgoing]);

    const heal = proxy.holdReplies();
    const [late] = await adapter.publish([outgoing]);
    await heal();
    const [next] = await adapter.publish([outgoing]);

    expect(late).toMatchObject({ status: "unknown", error: { code: "ERR_TIMEOUT" } });
    expect(next).toMatchObject({ status: "accepted" });
    expect(events).toContainEqual(expect.objectContaining({ type: "warning", code: "CONFIRM_OVERDUE" }));
  });

  test("while there is no connection a publish is refused as surely not sent", async () => {
    const proxy = await throughProxy();
    const { bus, events } = openBus({ url: proxy.url });
    const topic = defineTopic<number>(unique("away"));
    await bus.declare({ groups: { g: [topic] } });
    await bus.publish(topic, 0);
    await proxy.close();
    await eventually(() => expect(events.map(({ type }) => type)).toContain("disconnected"));

    const error = await failure(bus.publish(topic, 1, { timeout: 500 }));

    expect(error).toMatchObject({ code: "ERR_TIMEOUT", accepted: "no" });
    expect((error as Error).message).toContain("RabbitMQ");
  });

  test("a message without a group is refused, a message to a group is not lost with its queue", async () => {
    const { adapter } = await openAdapter();
    const topic = { name: unique("route"), partitions: 1, keyed: false };
    await adapter.declare({ topics: [topic], groups: [] });
    const common = outgoingTo(topic);
    const raw = await rawChannel();

    const [nobody] = await adapter.publish([{ ...common, destination: { topic } }]);
    const [allowed] = await adapter.publish([{ ...common, destination: { topic }, requireRoute: false }]);
    const [toGroup] = await adapter.publish([{ ...common, destination: { topic, group: "g" } }]);
    await raw.deleteQueue(`${topic.name}--g`);
    const [toGone] = await adapter.publish([{ ...common, destination: { topic, group: "g" } }]);
    const [again] = await adapter.publish([{ ...common, destination: { topic, group: "g" } }]);

    expect(nobody).toMatchObject({ status: "rejected", error: { code: "ERR_NO_ROUTE", retryable: false } });
    expect(allowed).toMatchObject({ status: "accepted" });
    expect(toGroup).toMatchObject({ status: "accepted" });
    expect(toGone).toMatchObject({ status: "rejected", error: { code: "ERR_DESTINATION", retryable: true } });
    expect(again).toMatchObject({ status: "accepted" });
    expect((await raw.checkQueue(`${topic.name}--g`)).messageCount).toBe(1);
  });

  test("fire and forget is transient and unconfirmed, and arrives all the same when nothing is wrong", async () => {
    const { bus } = openBus();
    const topic = defineTopic<number>(unique("none"));
    const raw = await rawChannel();
    await bus.declare({ groups: { g: [topic] } });
    const { queue } = await raw.assertQueue("", { exclusive: true });
    await raw.bindQueue(queue, topic.name, "#");

    const receipts = await Promise.all(
      [...Array(3_000).keys()].map((n) => bus.publish(topic, n, { durability: "none" })),
    );

    expect(receipts.every(({ durability }) => durability === "none")).toBe(true);
    await eventually(async () => expect((await raw.checkQueue(queue)).messageCount).toBe(3_000));
    const first = await raw.get(queue, { noAck: true });
    expect(first).toMatchObject({ properties: { deliveryMode: 1 } });
  });

  test("headers that AMQP cannot carry are refused as surely not sent, and the channel lives on", async () => {
    const { adapter } = await openAdapter();
    const topic = { name: unique("headers"), partitions: 1, keyed: false };
    await adapter.declare({ topics: [topic], groups: [{ topic, group: "g" }] });
    const [tooMuch, routing, good] = await adapter.publish([
      outgoingTo(topic, { a: "漢".repeat(16_000) }),
      outgoingTo(topic, { CC: "elsewhere" }),
      outgoingTo(topic, { a: "漢".repeat(14_000) }),
    ]);

    expect(tooMuch).toMatchObject({ status: "rejected", error: { code: "ERR_HEADER", retryable: false } });
    expect(routing).toMatchObject({ status: "rejected", error: { code: "ERR_HEADER", retryable: false } });
    expect(good).toMatchObject({ status: "accepted" });
  });

  test("P4 during an alarm publishes are refused as surely not sent, consumers and their acks go on, and it ends by itself", async ({
    skip,
  }) => {
    const ctl = controller() ?? skip();
    const { bus, events } = openBus();
    const [topic, quiet] = [defineTopic<number>(unique("alarm")), defineTopic<number>(unique("quiet"))];
    const handled: number[] = [];
    let finish = (): void => undefined;
    const held = new Promise<void>((resolve) => (finish = resolve));
    await bus.consume(topic, { group: "g", concurrency: 1, prefetch: 1 }, async (n) => {
      if (n === 1) await held;
      handled.push(n);
    });
    await bus.declare({ groups: { g: [quiet] } });
    await bus.publishAll(topic, [1, 2]);
    await bus.publish(quiet, 0);

    ctl("set_vm_memory_high_watermark", "absolute", "1");
    try {
      // The server tells a connection of the alarm when that connection next publishes.
      const first = failure(bus.publish(quiet, 3, { timeout: "1s" }));
      await eventually(() =>
        expect(events).toContainEqual(expect.objectContaining({ type: "warning", code: "BLOCKED" })),
      );
      const refused = await failure(bus.publish(quiet, 4, { timeout: "5s" }));
      finish();
      await eventually(() => expect(handled).toEqual([1, 2]));

      await first;
      expect(refused).toMatchObject({ code: "ERR_TIMEOUT" });
      expect((refused as PublishError).message).toContain("takes no messages now");
      expect(bus.health().checks["adapter"]?.error).toContain("takes no messages now");
    } finally {
      ctl("set_vm_memory_high_watermark", "absolute", "1GiB");
    }
    await bus.publish(topic, 5);
    await eventually(() => expect(handled).toContain(5));
  }, 60_000);
}
