import { constant, defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import { openBus, rawChannel, throughProxy, unique } from "./bench.ts";

export function declaring(): void {
  test("a queue that is found deleted is made again, and the loss is said", async () => {
    const proxy = await throughProxy();
    const { bus, events } = openBus({ url: proxy.url });
    const topic = defineTopic<number>(unique("gone"));
    await bus.declare({ groups: { g: [topic] } });
    const raw = await rawChannel();
    await raw.deleteQueue(`${topic.name}--g`);

    await proxy.cut();

    await eventually(() =>
      expect(events).toContainEqual(expect.objectContaining({ type: "lost", topic: topic.name, group: "g" })),
    );
    await eventually(async () => expect(await bus.publish(topic, 1)).toBeDefined());
  });

  test("a queue that is there with other settings is refused by name, with what differs", async () => {
    const topic = defineTopic<number>(unique("taken"));
    const raw = await rawChannel();
    await raw.assertQueue(`${topic.name}--g`, { durable: true, arguments: { "x-queue-type": "quorum" } });
    const { bus } = openBus();

    const error: unknown = await bus
      .consume(topic, { group: "g" }, () => undefined)
      .catch((reason: unknown) => reason);

    expect(error).toMatchObject({ code: "ERR_TOPOLOGY", retryable: false });
    expect((error as Error).message).toMatch(/queue `taken-.*--g`.*inequivalent arg 'x-/u);
    await raw.deleteQueue(`${topic.name}--g`);
  });

  test("a consumer that changes its options meets its own queue again", async () => {
    const topic = defineTopic<number>(unique("changed"));
    const [first, second] = [openBus().bus, openBus().bus];

    const before = await first.consume(topic, { group: "g", retry: { maxAttempts: 3 } }, () => undefined);
    await before.close();
    const retry = { maxAttempts: 50, backoff: constant("1h") };
    const after = await second.consume(topic, { group: "g", prefetch: 7, retry }, () => undefined);

    expect(after.health().consuming).toBe(true);
  });

  test("with a prefix every name begins with it, and messages do not mix", async () => {
    const topic = defineTopic<string>(unique("prefixed"));
    const staging = openBus({}, { prefix: "staging." }).bus;
    const plain = openBus().bus;
    const handled: string[] = [];
    await staging.consume(topic, { group: "g" }, (text) => void handled.push(`staging ${text}`));
    await plain.consume(topic, { group: "g" }, (text) => void handled.push(`plain ${text}`));

    await staging.publish(topic, "one");
    await plain.publish(topic, "two");

    await eventually(() => expect(handled.toSorted()).toEqual(["plain two", "staging one"]));
    const raw = await rawChannel();
    await raw.checkQueue(`staging.${topic.name}--g`);
    await raw.checkExchange(`staging.${topic.name}`);
  });
}
