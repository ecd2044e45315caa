import assert from "node:assert/strict";
import { defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus } from "./support/bus.ts";
import { messagingErrorOf } from "./support/errors.ts";

const topic = defineTopic<number>("t");
const keyed = defineTopic<number>("t", { key: String });
const handler = (): void => undefined;

describe("consume", () => {
  it.each<[string, object]>([
    ["no group", {}],
    ["an empty group", { group: "" }],
    ["a group of 101 characters", { group: "x".repeat(101) }],
    ["a group with the separator of names in it", { group: "a--b" }],
    ["a misspelt option", { group: "g", prefech: 1 }],
    ["a prefetch of 0", { group: "g", prefetch: 0 }],
    ["a negative prefetch", { group: "g", prefetch: -1 }],
    ["half a prefetch", { group: "g", prefetch: 1.5 }],
    ["a prefetch that is no number", { group: "g", prefetch: NaN }],
    ["a prefetch as text", { group: "g", prefetch: "10" }],
    ["a prefetch that AMQP cannot carry", { group: "g", prefetch: 65_536 }],
    ["a concurrency of 0", { group: "g", concurrency: 0 }],
    ["a concurrency of 10,001", { group: "g", concurrency: 10_001 }],
    ["an order there is not", { group: "g", order: "fifo" }],
    ["order by key of a topic without one", { group: "g", order: "key" }],
    ["blocking a key without order", { group: "g", onExhausted: "block" }],
    ["an end there is not", { group: "g", onExhausted: "drop" }],
    ["a timeout of 0", { group: "g", timeout: 0 }],
    ["a timeout that is no duration", { group: "g", timeout: "30 s" }],
    ["a lease shorter than a second", { group: "g", lease: 999 }],
    ["a holdBelow above a minute", { group: "g", holdBelow: "2m" }],
    ["maxAttempts of 0", { group: "g", retry: { maxAttempts: 0 } }],
    ["a retry that is no object", { group: "g", retry: 3 }],
    ["once without a store", { group: "g", once: "transaction" }],
    ["once by lease without a store", { group: "g", once: "lease" }],
    ["once there is not", { group: "g", once: true }],
  ])("refuses %s", async (_what, options) => {
    await messagingErrorOf("ERR_CONFIG", () => openBus().bus.consume(topic, options as never, handler));
  });

  it.each<[string, unknown]>([
    ["nothing", undefined],
    ["text", "handler"],
    ["a generator function, which nobody would run", function* () {}],
    ["an asynchronous generator function, which nobody would run", async function* () {}],
  ])("refuses %s as handler", async (_what, odd) => {
    await messagingErrorOf("ERR_CONFIG", () => openBus().bus.consume(topic, { group: "g" }, odd as never));
  });

  it("refuses a topic that defineTopic did not make", async () => {
    await messagingErrorOf("ERR_CONFIG", () => openBus().bus.consume("t" as never, { group: "g" }, handler));
  });

  it("names the topic, the option and what was meant", async () => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () =>
      openBus().bus.consume(topic, { group: "g", prefech: 1 } as never, handler),
    );

    assert.equal(message, 'consume("t"): unknown option "prefech" (did you mean "prefetch"?)');
  });

  it("checks before it connects to anything", async () => {
    const world = openBus();

    await messagingErrorOf("ERR_CONFIG", () => world.bus.consume(topic, { group: "" }, handler));

    assert.deepEqual(world.events, []);
  });

  it("refuses order by key of an adapter that cannot keep it", async () => {
    const broker = memory();
    const adapter = { ...broker, capabilities: { ...broker.capabilities, ordering: "none" } as const };

    await messagingErrorOf("ERR_CAPABILITY", () =>
      openBus({ adapter }).bus.consume(keyed, { group: "g", order: "key" }, handler),
    );
  });

  it("refuses retries that wait longer than the adapter can", async () => {
    const broker = memory();
    const adapter = { ...broker, capabilities: { ...broker.capabilities, maxDelayMs: 60_000 } };

    const { message } = await messagingErrorOf("ERR_CAPABILITY", () =>
      openBus({ adapter }).bus.consume(topic, { group: "g" }, handler),
    );
    assert.match(message, /cannot delay a retry by 600000 ms.*Give retry\.backoff a lower max/u);
  });

  it("takes all of its options together", async () => {
    const { bus } = openBus();

    const consumer = await bus.consume(
      keyed,
      {
        group: "g",
        concurrency: 10_000,
        prefetch: 65_535,
        order: "key",
        onExhausted: "block",
        timeout: "30s",
        retry: { maxAttempts: 1_000, backoff: () => 1, maxAge: "7d", retryIf: () => true },
        once: false,
        holdBelow: 0,
        lease: "12h",
        use: [],
      },
      handler,
    );

    assert.deepEqual([consumer.topic, consumer.group, consumer.health().consuming], ["t", "g", true]);
  });
});
