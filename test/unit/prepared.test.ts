import assert from "node:assert/strict";
import { type Check, type Decision, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { type FakeRuntime, createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { watch } from "../../src/testing/store/world.ts";
import { type TestBus, openBus } from "./support/bus.ts";
import { messagingErrorOf } from "./support/errors.ts";
import { type TestStore, openStore, storeDown } from "./support/store.ts";

const topic = defineTopic<{ orderId: string }>("order.placed", { key: (order) => order.orderId });
const order = { orderId: "1" };

let names = 0;

interface World extends TestBus {
  readonly database: TestStore;
  readonly received: string[];
}

async function open(check?: Check<{ orderId: string }>): Promise<World> {
  const database = await openStore();
  const world = openBus({
    adapter: memory({ name: `prepared-${(names += 1)}` }),
    store: database.store,
  });
  const received: string[] = [];
  const consuming = world.bus.consume(topic, { group: "g", once: false }, (_payload, { message }) => {
    received.push(message.id);
  });
  await passing(world, consuming);
  if (check !== undefined) world.bus.checkBack(topic, check);
  return { ...world, database, received };
}

/** Turns of the event loop, for the database's files; no time passes. */
async function settle(runtime: FakeRuntime): Promise<void> {
  for (let i = 0; i < 30; i++) await runtime.advance(0);
}

/** What it comes to, while little time passes. */
async function passing<T>({ runtime }: Pick<TestBus, "runtime">, promise: Promise<T>): Promise<T> {
  const watched = watch(promise);
  for (let i = 0; !watched.settled && i < 2_000; i++) await runtime.advance(i < 300 ? 0 : 10);
  return promise;
}

async function pass({ runtime }: Pick<TestBus, "runtime">, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 500) {
    await runtime.advance(500);
    await settle(runtime);
  }
}

const unknown = (): Decision => "unknown";

describe("a prepared message", () => {
  it("leaves when it is committed, and not before", async () => {
    const world = await open(unknown);
    const prepared = await passing(world, world.bus.prepare(topic, order, { id: "m", headers: { a: "b" } }));
    await pass(world, 2_000);
    assert.deepEqual(world.received, []);

    const receipt = await passing(world, prepared.commit());
    await pass(world, 2_000);

    assert.deepEqual(receipt, { id: "m", durability: "outbox", duplicate: false });
    assert.deepEqual(world.received, ["m"]);
    assert.deepEqual(await passing(world, world.bus.undecided(topic).list()), []);
  });

  it("never leaves when it is rolled back", async () => {
    const world = await open(() => "commit");
    const prepared = await passing(world, world.bus.prepare(topic, order));
    await passing(world, prepared.rollback());
    await pass(world, 60_000);

    assert.deepEqual(world.received, []);
    assert.deepEqual(
      world.of("decided").map(({ decision }) => decision),
      ["rollback"],
    );
  });

  it("has one decision: the same again is fine, another is refused", async () => {
    const world = await open(unknown);
    const [one, two] = [
      await passing(world, world.bus.prepare(topic, order)),
      await passing(world, world.bus.prepare(topic, order)),
    ];
    await passing(world, one.commit());
    await passing(world, one.commit());
    await passing(world, two.rollback());
    await passing(world, two.rollback());

    const late = await messagingErrorOf("ERR_PUBLISH", () => passing(world, one.rollback()));
    const dead = await messagingErrorOf("ERR_PUBLISH", () => passing(world, two.commit()));
    await messagingErrorOf("ERR_PUBLISH", () => passing(world, world.bus.undecided(topic).commit("no such")));
    await pass(world, 2_000);

    assert.match(late.message, /was committed before/u);
    assert.match(dead.message, /was rolled back before/u);
    assert.deepEqual(world.received, [one.id]);
  });

  it("is answered by the store when the decision's commit was not", async () => {
    const world = await open(unknown);
    const prepared = await passing(world, world.bus.prepare(topic, order));
    let lost = 0;
    world.database.faults.after = (operation) =>
      operation === "transaction" && (lost += 1) === 1 ? storeDown() : undefined;
    await messagingErrorOf("ERR_STORE", () => passing(world, prepared.commit()));
    await passing(world, prepared.commit());
    await pass(world, 2_000);

    assert.deepEqual(world.received, [prepared.id]);
  });

  it("is stored once when it is prepared twice, also after it was decided", async () => {
    const checked: string[] = [];
    const world = await open(({ id }) => {
      checked.push(id);
      return "commit";
    });
    const prepare = (): ReturnType<typeof world.bus.prepare> =>
      passing(world, world.bus.prepare(topic, order, { id: "m" }));
    await prepare();
    const prepared = await prepare();
    await passing(world, prepared.commit());
    await prepare();
    await pass(world, 60_000);

    assert.deepEqual(checked, ["m"]);
    assert.deepEqual(world.received, ["m"]);
    assert.deepEqual(await passing(world, world.bus.undecided(topic).list()), []);
  });
});

describe("the check of a topic", () => {
  it("knows messages by topic and id: the same id in another topic is another message", async () => {
    const world = await open(() => "commit");
    const other = defineTopic<string>("order.shipped");
    const shipped: string[] = [];
    const options = { group: "g", once: false } as const;
    await passing(
      world,
      world.bus.consume(other, options, (text) => void shipped.push(text)),
    );
    world.bus.checkBack(other, () => "rollback");
    const [placed, sent] = [
      await passing(world, world.bus.prepare(topic, order, { id: "1" })),
      await passing(world, world.bus.prepare(other, "shipped", { id: "1" })),
    ];
    await passing(world, placed.rollback());
    await passing(world, sent.commit());
    await pass(world, 2_000);

    assert.deepEqual({ received: world.received, shipped }, { received: [], shipped: ["shipped"] });
    assert.deepEqual(
      world.of("decided").map(({ messageId }) => messageId),
      ["1", "1"],
    );
  });

  it("is asked after 6 seconds, then every 30, 15 times in all, and then the message is parked and can be resumed", async () => {
    const asked: number[] = [];
    let answer: Decision = "unknown";
    const world: World = await open(({ payload, key }) => {
      assert.deepEqual({ ...payload, key }, { orderId: "1", key: "1" });
      asked.push(world.runtime.monotonic() - from);
      return answer;
    });
    const prepared = await passing(world, world.bus.prepare(topic, order));
    const from = world.runtime.monotonic();
    await pass(world, 600_000);

    const due = Array.from({ length: 15 }, (_, n) => 6_000 + n * 30_000);
    assert.equal(asked.length, 15);
    // Looked for once a second, each wait counts from when the one before was found.
    for (const [n, at] of asked.entries()) {
      const expected = due[n] ?? 0;
      assert.ok(at >= expected && at <= expected + (n + 1) * 1_100, `check ${n + 1} after ${at} ms`);
    }
    assert.deepEqual(
      world.of("checkParked").map(({ messageId, checks }) => ({ messageId, checks })),
      [{ messageId: prepared.id, checks: 15 }],
    );
    const undecided = world.bus.undecided(topic);
    const [parked] = await passing(world, undecided.list());
    assert.deepEqual(
      { id: parked?.id, parked: parked?.parked, key: parked?.message.key },
      { id: prepared.id, parked: true, key: "1" },
    );

    answer = "commit";
    assert.equal(await passing(world, undecided.resume({ ids: ["another"] })), 0);
    assert.equal(await passing(world, undecided.resume()), 1);
    await pass(world, 4_000);
    assert.equal(asked.length, 16);
    assert.deepEqual(world.received, [prepared.id]);
  });

  it("decides for a sender that has died, in another process", async () => {
    const world = await open(unknown);
    const [done, undone] = [
      await passing(world, world.bus.prepare(topic, { orderId: "done" })),
      await passing(world, world.bus.prepare(topic, { orderId: "undone" })),
    ];
    await passing(world, world.bus.close());

    const runtime = createFakeRuntime({ now: world.runtime.now() });
    const other = openBus({
      adapter: memory({ name: `prepared-${(names += 1)}` }),
      store: world.database.another(),
      runtime,
    });
    const received: string[] = [];
    const options = { group: "g", once: false } as const;
    await passing(
      other,
      other.bus.consume(topic, options, (_order, { message }) => void received.push(message.id)),
    );
    other.bus.checkBack(topic, ({ payload }) => (payload.orderId === "done" ? "commit" : "rollback"));
    await pass(other, 10_000);

    assert.deepEqual(received, [done.id]);
    assert.deepEqual(
      other.of("decided").map(({ messageId, decision }) => ({ messageId, decision })),
      [
        { messageId: done.id, decision: "commit" },
        { messageId: undone.id, decision: "rollback" },
      ],
    );
  });

  it("may throw, answer nonsense or never answer: it is asked again, and others are not kept waiting", async () => {
    const signals: AbortSignal[] = [];
    const answers: Record<string, () => Promise<Decision>> = {
      throws: () => Promise.reject(new Error("no database")),
      nonsense: () => Promise.resolve("comit" as never),
      hangs: () => new Promise(() => undefined),
    };
    let healed = false;
    const world = await open(({ payload }, { signal }) => {
      if (healed) return "commit";
      if (payload.orderId === "hangs") signals.push(signal);
      return answers[payload.orderId]?.() ?? "commit";
    });
    for (const orderId of [...Object.keys(answers), "fine"])
      await passing(world, world.bus.prepare(topic, { orderId }, { id: orderId }));
    await pass(world, 10_000);

    assert.deepEqual(world.received, ["fine"]);
    assert.deepEqual(
      world
        .of("checkFailed")
        .map(({ messageId }) => `${messageId}`)
        .toSorted(),
      ["nonsense", "throws"],
    );
    healed = true;
    await pass(world, 45_000);
    assert.equal(signals[0]?.aborted, true);
    assert.deepEqual(world.received.toSorted(), ["fine", "hangs", "nonsense", "throws"]);
  });

  it("is asked by one of several processes at a time, and what the sender says first counts", async () => {
    const asked: string[] = [];
    const release = Promise.withResolvers<Decision>();
    const world = await open((message) => {
      asked.push(`a ${message.id}`);
      return release.promise;
    });
    const other = openBus({
      adapter: memory({ name: `prepared-${(names += 1)}` }),
      store: world.database.another(),
      runtime: world.runtime,
    });
    other.bus.checkBack(topic, (message) => {
      asked.push(`b ${message.id}`);
      return release.promise;
    });
    const prepared = await passing(world, world.bus.prepare(topic, order));
    await pass(world, 20_000);
    await passing(world, prepared.commit());
    release.resolve("rollback");
    await pass(world, 60_000);

    assert.equal(asked.length, 1);
    assert.deepEqual(world.received, [prepared.id]);
    assert.equal([...world.of("checkFailed"), ...other.of("checkFailed")].length, 1);
  });

  it("goes on when the database fails for a while", async () => {
    const world = await open(() => "commit");
    const prepared = await passing(world, world.bus.prepare(topic, order));
    world.database.faults.before = (operation) => (operation === "prepared.claim" ? storeDown() : undefined);
    await pass(world, 20_000);
    assert.ok(world.of("checkFailed").length > 0);
    world.database.faults.before = undefined;
    await pass(world, 40_000);

    assert.deepEqual(world.received, [prepared.id]);
  });
});

describe("preparing: what it is given", () => {
  it("refuses a topic without a check, a second check, and what a relay could not send", async () => {
    const { bus, ...world } = await open();
    const wrong = (act: () => unknown): Promise<Error> => messagingErrorOf("ERR_CONFIG", act);

    assert.match((await wrong(() => bus.prepare(topic, order))).message, /has no check.*bus\.checkBack/u);
    await wrong(() => bus.checkBack(topic, "commit" as never));
    bus.checkBack(topic, unknown);
    assert.match((await wrong(() => bus.checkBack(topic, unknown))).message, /has a check already/u);
    await wrong(() => bus.prepare(topic, order, { requireRoute: false }));
    await wrong(() => bus.prepare(topic, order, { chek: unknown } as never));
    await messagingErrorOf("ERR_ENCODE", () => bus.prepare(topic, { orderId: 1n } as never));
    await wrong(() => bus.undecided(topic).list({ limit: 0 }));
    await wrong(() => openBus().bus.checkBack(topic, unknown));
    assert.deepEqual(await passing(world, bus.undecided(topic).list()), []);
  });
});
