import assert from "node:assert/strict";
import { LifecycleError, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus, settle } from "./support/bus.ts";
import { errorOf, messagingErrorOf } from "./support/errors.ts";
import { brokerError, failing, fatalError, holding } from "./support/faults.ts";

const topic = defineTopic<number>("t");

describe("connect", () => {
  it("connects once, however often and however it is asked for", async () => {
    const world = openBus();
    const calls = failing(world.adapter.faults, "connect", 0);

    await Promise.all([world.bus.connect(), world.bus.connect(), world.bus.publish(topic, 1)]);
    await world.bus.connect();

    assert.equal(calls.calls, 1);
  });

  it("tries again with growing waits, says so, and succeeds when the broker is there", async () => {
    const world = openBus();
    failing(world.adapter.faults, "connect", 3);

    const connected = world.bus.connect();
    await world.runtime.advance(10_000);
    await connected;

    const tries = world.of("reconnecting");
    assert.deepEqual(
      tries.map(({ attempt }) => attempt),
      [1, 2, 3],
    );
    assert.ok(tries.every(({ delayMs, error }) => delayMs >= 50 && error.message === "bad moment"));
    assert.equal(world.runtime.nextTimerMs, undefined);
  });

  it("gives up after connectTimeout with the last error, and begins anew when it is asked again", async () => {
    const world = openBus({ connectTimeout: "3s" });
    failing(world.adapter.faults, "connect", 1_000);
    const failed = messagingErrorOf("ERR_BROKER", () => world.bus.connect());
    await world.runtime.advance(3_000);
    await failed;

    world.adapter.faults.before = undefined;

    await world.bus.connect();
    assert.equal(world.bus.health().ready, true);
  });

  it("names the last error when the try after it hangs", async () => {
    const world = openBus({ connectTimeout: "3s" });
    let calls = 0;
    world.adapter.faults.before = () => {
      calls += 1;
      return calls === 1 ? brokerError("port is wrong") : new Promise(() => undefined);
    };
    const failed = messagingErrorOf("ERR_CONNECT", () => world.bus.connect());
    await world.runtime.advance(3_000);

    assert.match((await failed).message, /did not connect within 3000 ms: port is wrong$/u);
  });

  it("does not try again when that is no use", async () => {
    const world = openBus();
    const calls = failing(world.adapter.faults, "connect", 1_000, fatalError);

    await messagingErrorOf("ERR_AUTH", () => world.bus.connect());
    await messagingErrorOf("ERR_AUTH", () => world.bus.connect());

    assert.equal(calls.calls, 2);
    assert.equal(world.of("reconnecting").length, 0);
    assert.equal(world.runtime.nextTimerMs, undefined);
  });

  it("gives up after connectTimeout on a try that hangs, and does not start a second one beside it", async () => {
    const world = openBus({ connectTimeout: "3s" });
    const held = holding(world.adapter.faults, "connect");
    const failed = messagingErrorOf("ERR_CONNECT", () => world.bus.connect());
    await world.runtime.advance(3_000);
    assert.match((await failed).message, /"memory" did not connect within 3000 ms/u);

    const again = world.bus.connect();
    await settle(world.runtime);
    held.letGo();
    await again;

    assert.equal(held.calls, 1);
    assert.equal(world.bus.health().ready, true);
  });

  it("knows that it is connected when a try succeeds that was given up on", async () => {
    const world = openBus({ connectTimeout: "3s" });
    const held = holding(world.adapter.faults, "connect");
    const failed = errorOf(() => world.bus.connect());
    await world.runtime.advance(3_000);
    await failed;

    held.letGo();
    await settle(world.runtime);
    await world.bus.connect();

    assert.equal(held.calls, 1);
  });

  it("turns what an adapter throws by mistake into an error of the library", async () => {
    const odd = memory();
    const adapter = {
      ...odd,
      connect: () => {
        throw new RangeError("bug");
      },
    };
    const world = openBus({ adapter, connectTimeout: 1 });

    const error = await messagingErrorOf("ERR_CONNECT", () => world.bus.connect());
    assert.ok(error.cause instanceof RangeError);
  });

  it("ends when the bus is closed meanwhile, and leaves nothing connected", async () => {
    const world = openBus();
    const held = holding(world.adapter.faults, "connect");
    const failed = messagingErrorOf("ERR_CLOSED", () => world.bus.connect());
    await settle(world.runtime);

    await world.bus.close();
    await failed;
    held.letGo();
    await settle(world.runtime);

    assert.equal(world.adapter.health().connected, false);
    assert.equal(world.runtime.nextTimerMs, undefined);
  });

  it("ends when the bus is closed while it waits for its next try", async () => {
    const world = openBus();
    failing(world.adapter.faults, "connect", 1_000);
    const failed = errorOf(() => world.bus.connect());
    await world.runtime.advance(500);

    await world.bus.close();

    assert.ok((await failed) instanceof LifecycleError);
    assert.equal(world.runtime.nextTimerMs, undefined);
  });
});

describe("a topic", () => {
  it("is declared again, with waits, while the broker cannot yet, and no longer than connectTimeout", async () => {
    const world = openBus({ connectTimeout: "3s" });
    failing(world.adapter.faults, "declare", 2);
    const published = world.bus.publish(topic, 1);
    await world.runtime.advance(3_000);
    await published;

    failing(world.adapter.faults, "declare", 1_000);
    const other = defineTopic<number>("other");
    const failed = messagingErrorOf("ERR_BROKER", () => world.bus.declare({ topics: [other] }));
    await world.runtime.advance(3_000);

    assert.match((await failed).message, /bad moment/u);
    assert.equal(world.runtime.nextTimerMs, undefined);
  });

  it("is declared once, and again after that failed", async () => {
    const world = openBus();
    const calls = failing(world.adapter.faults, "declare", 1, fatalError);

    await errorOf(() => world.bus.publish(topic, 1));
    await world.bus.publish(topic, 2);
    await world.bus.publishAll(topic, [3, 4]);

    assert.equal(calls.calls, 2);
  });

  it("cannot be two different ones", async () => {
    const world = openBus();
    await world.bus.publish(topic, 1);
    const other = defineTopic<number>("t", { partitions: 4 });
    const keyed = defineTopic<number>("t", { key: String, partitions: 1 });

    const { message } = await messagingErrorOf("ERR_CONFIG", () => world.bus.publish(other, 1));
    assert.match(
      message,
      /topic "t" is defined twice, with 1 partitions without a key and with 4 partitions/u,
    );
    await messagingErrorOf("ERR_CONFIG", () => world.bus.consume(keyed, { group: "g" }, () => undefined));
    await world.bus.publish(defineTopic<number>("t"), 2);
  });
});

describe("declare", () => {
  it("makes topics and groups that wait for their messages", async () => {
    const world = openBus();
    await world.bus.declare({ topics: [topic], groups: { a: [topic], b: [topic] } });
    await world.bus.publish(topic, 1);

    const got: string[] = [];
    for (const group of ["a", "b"]) await world.bus.consume(topic, { group }, () => void got.push(group));
    await settle(world.runtime);

    assert.deepEqual(got.toSorted(), ["a", "b"]);
  });

  it.each([
    [{ topic: [] }],
    [{ topics: topic }],
    [{ topics: ["t"] }],
    [{ groups: { g: topic } }],
    [{ groups: { "bad name": [topic] } }],
    [null],
  ])("refuses %j", async (topology) => {
    await messagingErrorOf("ERR_CONFIG", () => openBus().bus.declare(topology as never));
  });
});
