import assert from "node:assert/strict";
import { type Logger, createBus, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus } from "../support/bus.ts";
import { messagingErrorOf } from "../support/errors.ts";
import { failing } from "../support/faults.ts";
import { openStore, storeDown } from "../support/store.ts";

const topic = defineTopic<number>("t");
const group = "g";

describe("createBus", () => {
  it.each<[string, object]>([
    ["a misspelt option", { adaptor: "memory:" }],
    ["an adapter that is none", { adapter: {} }],
    ["an adapter of null", { adapter: null }],
    ["a URL without a scheme", { adapter: "localhost:5672" }],
    ["a URL of a scheme nobody knows", { adapter: "nats://localhost" }],
    ["the URL of a database that is a store", { adapter: "postgres://localhost/app" }],
    ["the URL of another one", { adapter: "mariadb://localhost/app" }],
    ["a store that is none", { adapter: "memory:", store: {} }],
    ["a store of null", { adapter: "memory:", store: null }],
    ["an onEvent that is no function", { adapter: "memory:", onEvent: [] }],
    ["a logger without methods", { adapter: "memory:", logger: {} }],
    ["half a logger", { adapter: "memory:", logger: { info: () => undefined } }],
    ["a prefix with the separator of names", { adapter: "memory:", prefix: "a--" }],
    ["an empty source", { adapter: "memory:", source: "" }],
    ["an outboxOnly that is no boolean", { adapter: "memory:", outboxOnly: 1 }],
    ["a connectTimeout of 0", { adapter: "memory:", connectTimeout: 0 }],
    ["a publishTimeout of 0", { adapter: "memory:", publishTimeout: 0 }],
    ["a drainTimeout that is no duration", { adapter: "memory:", drainTimeout: "20 s" }],
    ["maxBytes of 0", { adapter: "memory:", maxBytes: 0 }],
    ["an inboxRetention below a minute", { adapter: "memory:", inboxRetention: "30s" }],
  ])("refuses %s", async (_what, options) => {
    await messagingErrorOf("ERR_CONFIG", () => createBus(options));
  });

  it("never shows a password", async () => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () =>
      createBus({ adapter: "amqq://app:hunter2@host" }),
    );

    assert.match(
      message,
      /unknown broker scheme "amqq" in "amqq:\/\/app:\*\*\*@host" \(did you mean "amqps?"\?\)/u,
    );
  });

  it("refuses an adapter that another bus has: closing one would close the other", async () => {
    const adapter = memory();
    openBus({ adapter });

    const { message } = await messagingErrorOf("ERR_CONFIG", () => createBus({ adapter }));
    assert.match(message, /make one adapter for each bus/u);
  });

  it("connects to nothing by itself", () => {
    const world = openBus();

    assert.deepEqual(world.events, []);
    assert.equal(world.runtime.nextTimerMs, undefined);
  });

  it("takes console as its logger", async () => {
    const { bus } = openBus({
      logger: { ...console, debug: () => undefined, info: () => undefined },
    });

    await bus.publish(topic, 1);
  });
});

describe("what needs a store", () => {
  it.each<[string, (bus: ReturnType<typeof openBus>["bus"]) => unknown]>([
    ["outbox", (bus) => bus.outbox({})],
    ["relay", (bus) => bus.relay()],
    ["migrate", (bus) => bus.migrate()],
    ["transaction", (bus) => bus.transaction(async () => undefined)],
  ])("says so: %s", async (what, act) => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () => act(openBus().bus));

    assert.match(message, new RegExp(`^${what} needs a store`, "u"));
  });

  it("warns of an inbox that forgets before retries are over", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store, inboxRetention: "1h" });

    await world.bus.consume(topic, { group }, () => undefined);

    assert.match(
      world.of("warning")[0]?.message ?? "",
      /retry\.maxAge \(86400000 ms\) is longer than inboxRetention \(3600000 ms\)/u,
    );
  });

  it("tries to connect as patiently as the broker does", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    let calls = 0;
    database.faults.before = (operation) =>
      operation === "connect" && (calls += 1) <= 3 ? storeDown() : undefined;

    const connected = world.bus.connect();
    for (let i = 0; i < 50; i++) await world.runtime.advance(100);
    await connected;

    assert.equal(calls, 4);
    assert.equal(world.bus.health().ready, true);
  });
});

describe("a listener that fails", () => {
  it("does not change what becomes of messages", async () => {
    const rejects = (() => Promise.reject(new Error("logger"))) as unknown as Logger["debug"];
    const world = openBus({
      onEvent: () => {
        throw new Error("listener");
      },
      logger: {
        debug: rejects,
        info: () => assert.fail("logger"),
        warn: () => assert.fail("logger"),
        error: () => assert.fail("logger"),
      },
    });
    failing(world.adapter.faults, "ack", 1);
    await world.bus.consume(topic, { group }, (_payload, { log }) => {
      log.info({}, "fails");
      log.debug({}, "rejects");
    });

    await world.bus.publish(topic, 1);
    await world.runtime.advance(1_000);

    assert.deepEqual(world.outcomes(), ["handled"]);
  });
});
