import assert from "node:assert/strict";
import { defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { openBus, settle } from "../support/bus.ts";
import { errorOf, messagingErrorOf } from "../support/errors.ts";
import { holding } from "../support/faults.ts";
import { openStore } from "../support/store.ts";

const topic = defineTopic<number>("t");
const group = "g";

describe("closing a bus", () => {
  it("twice, at once, and before anything was used, is closing once", async () => {
    const { bus } = openBus();

    await Promise.all([bus.close(), bus.close(), bus[Symbol.asyncDispose]()]);
    await bus.close();
  });

  it.each<[string, (bus: ReturnType<typeof openBus>["bus"]) => unknown]>([
    ["publish", (bus) => bus.publish(topic, 1)],
    ["publishAll", (bus) => bus.publishAll(topic, [1])],
    ["consume", (bus) => bus.consume(topic, { group }, () => undefined)],
    ["connect", (bus) => bus.connect()],
    ["declare", (bus) => bus.declare({ topics: [topic] })],
    ["migrate", (bus) => bus.migrate()],
    ["relay", (bus) => bus.relay()],
    ["transaction", (bus) => bus.transaction(async () => undefined)],
    ["deadLetters().list", (bus) => Array.fromAsync(bus.deadLetters(topic, { group }).list())],
    ["deadLetters().redrive", (bus) => bus.deadLetters(topic, { group }).redrive()],
    ["outbox().publish", (bus) => bus.outbox({}).publish(topic, 1)],
  ])("makes %s refuse", async (_what, act) => {
    const database = await openStore();
    const { bus } = openBus({ store: database.store });
    await bus.connect();
    await bus.close();

    const { message } = await messagingErrorOf("ERR_CLOSED", () => act(bus));
    assert.match(message, /the bus is closed; create a new one/u);
  });

  it("lets the relay's lease go, however little time there is, so that another can take over at once", async () => {
    const database = await openStore();
    const { bus, runtime } = openBus({ store: database.store });
    const relay = bus.relay();
    await bus.consume(topic, { group }, () => new Promise(() => undefined));
    await bus.publish(topic, 1);
    for (let i = 0; !relay.health().active && i < 1_000; i++) await runtime.advance(5);
    assert.ok(relay.health().active);
    database.faults.before = async (operation) => {
      if (operation === "outbox.surrender") await runtime.sleep(200);
      return undefined;
    };

    let closed = false;
    void bus.close({ timeout: 0 }).then(() => (closed = true));
    for (let i = 0; !closed && i < 100; i++) await runtime.advance(20);

    const [lease] = database.rows("SELECT expires FROM postrider_relay") as { expires: number }[];
    assert.ok((lease?.expires ?? Infinity) <= runtime.now(), "the lease is still held");
  });

  it("closes everything even when something cannot be closed, and says what could not", async () => {
    const database = await openStore();
    const broker = memory();
    const cause = new RangeError("cannot leave");
    const adapter = {
      ...broker,
      subscribe: (async (spec, sink) => {
        const subscription = await broker.subscribe(spec, sink);
        const close = subscription.close.bind(subscription);
        subscription.close = async () => {
          await close();
          throw cause;
        };
        return subscription;
      }) as typeof broker.subscribe,
      close: async () => {
        await broker.close();
        throw cause;
      },
    };
    const world = openBus({ adapter, store: database.store });
    await world.bus.consume(topic, { group, once: false }, () => undefined);
    world.bus.relay();
    await settle(world.runtime);

    const failed = errorOf(() => world.bus.close({ timeout: 0 }));
    for (let i = 0; i < 20; i++) await world.runtime.advance(100);

    const error = await failed;
    assert.ok(error instanceof AggregateError);
    assert.deepEqual(error.errors, [cause, cause]);
    assert.equal(world.runtime.nextTimerMs, undefined, "the relay goes on");
    assert.equal(world.bus.health().live, false);
  });

  it("is over by its timeout although a database does not answer the relay", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    database.faults.before = (operation) =>
      operation === "outbox.fetch" ? new Promise(() => undefined) : undefined;
    world.bus.relay();
    for (let i = 0; i < 20; i++) await world.runtime.advance(10);

    const closed = world.bus.close({ timeout: "1s" });
    for (let i = 0; i < 20; i++) await world.runtime.advance(100);
    await closed;
  });

  it("lets handlers that still run publish", async () => {
    const world = openBus();
    const second = defineTopic<number>("second");
    const finish = Promise.withResolvers<void>();
    await world.bus.consume(topic, { group }, async (_payload, context) => {
      await finish.promise;
      await context.publish(second, 1);
    });
    await world.bus.publish(topic, 1);
    await settle(world.runtime);

    const closed = world.bus.close();
    finish.resolve();
    await closed;

    assert.equal(world.of("published").filter((event) => event.topic === "second").length, 1);
    assert.equal(world.of("handled").length, 1);
  });

  it("leaves no timer behind, whatever was open", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    await world.bus.consume(topic, { group, once: "lease", timeout: "1h" }, () => undefined);
    world.bus.relay();
    const held = holding(world.adapter.faults, "publish");
    const sent = errorOf(() => world.bus.publish(topic, 1));
    await settle(world.runtime);

    const closed = world.bus.close({ timeout: "1s" });
    for (let i = 0; i < 50; i++) await world.runtime.advance(100);
    held.letGo();
    await closed;
    await sent;

    assert.equal(world.runtime.nextTimerMs, undefined);
  });
});

describe("a bus that is closed and made anew", () => {
  it("fifty times on one broker goes on where it was", async () => {
    let handled = 0;
    for (let i = 0; i < 50; i++) {
      const world = openBus({ adapter: memory({ name: "fifty" }), runtime: createFakeRuntime({ seed: i }) });
      await world.bus.consume(topic, { group }, () => void (handled += 1));
      await world.bus.publish(topic, i);
      await settle(world.runtime);
      await world.bus.close();
      assert.equal(world.runtime.nextTimerMs, undefined);
    }

    assert.equal(handled, 50);
  });
});
