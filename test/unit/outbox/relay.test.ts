import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import { TransportError, defineTopic } from "postrider";
import { type MemoryAdapter, memory } from "postrider/memory";
import { describe, it, onTestFinished } from "vitest";
import type { OutgoingMessage, PublishResult } from "../../../src/adapter.ts";
import { type TestBus, openBus } from "../support/bus.ts";
import { brokerError, failing, holding, unanswered } from "../support/faults.ts";
import { type TestStore, openStore, storeDown } from "../support/store.ts";

const [good, bad] = [
  defineTopic<number>("good", { key: (n) => `k${n % 2}`, partitions: 1 }),
  defineTopic<number>("bad", { key: () => "k", partitions: 1 }),
];

/** A broker that answers for some messages in its own way, and notes what it took. */
function answering(
  answer: (message: OutgoingMessage) => PublishResult | undefined,
): MemoryAdapter & { readonly taken: string[] } {
  const broker = memory();
  const taken: string[] = [];
  return {
    ...broker,
    taken,
    async publish(batch) {
      const results: PublishResult[] = [];
      for (const message of batch) {
        const refused = answer(message);
        const [result] = refused === undefined ? await broker.publish([message]) : [refused];
        if (result?.status === "accepted") taken.push(nameOf(message));
        results.push(result as PublishResult);
      }
      return results;
    },
  };
}

const nameOf = ({ destination, message }: OutgoingMessage): string =>
  `${destination.topic.name} ${Buffer.from(message.body ?? []).toString()}`;

const refused = (code: "ERR_DESTINATION" | "ERR_BROKER", retryable: boolean): PublishResult => ({
  status: "rejected",
  error: new TransportError(code, "refused", { retryable }),
});

/** Adds messages in one transaction. */
const add = (world: TestBus, topic: typeof good, ...payloads: number[]): Promise<unknown> =>
  world.bus.transaction((_tx, outbox) => outbox.publishAll(topic, payloads));

/** Time passes until it has come to that. */
async function eventually(world: TestBus, done: () => boolean, stepMs = 50): Promise<void> {
  for (let i = 0; !done(); i++) {
    assert.ok(i < 2_000, "it never came to that");
    await world.runtime.advance(stepMs);
  }
}

const waiting = (database: TestStore): number => database.rows("SELECT seq FROM postrider_outbox").length;

describe("the relay", () => {
  it("publishes what was committed, in order per key, and deletes it", async () => {
    const database = await openStore();
    const adapter = answering(() => undefined);
    const world = openBus({ adapter, store: database.store });
    world.bus.relay();

    await add(world, good, 1, 2, 3, 4, 5, 6);
    await eventually(world, () => world.of("relayed").length > 0);

    assert.equal(waiting(database), 0);
    assert.deepEqual(
      adapter.taken.filter((name) => Number(name.slice(5)) % 2 === 1),
      ["good 1", "good 3", "good 5"],
    );
    assert.deepEqual(
      adapter.taken.filter((name) => Number(name.slice(5)) % 2 === 0),
      ["good 2", "good 4", "good 6"],
    );
  });

  it("deletes nothing before the broker has confirmed it", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    const held = holding(world.adapter.faults, "publish", "after");
    world.bus.relay();
    await add(world, good, 1);
    await eventually(world, () => held.calls > 0);
    await world.runtime.advance(5_000);

    assert.equal(waiting(database), 1);
    held.letGo();
    await eventually(world, () => waiting(database) === 0);
  });

  it("sends again with the same id what was sent but not deleted", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    let lost = 0;
    database.faults.before = (operation) =>
      operation === "outbox.remove" && (lost += 1) <= 2 ? storeDown() : undefined;
    world.bus.relay();
    await add(world, good, 1);
    await eventually(world, () => waiting(database) === 0);

    const published = world.of("published");
    assert.equal(published.length, 3);
    assert.equal(new Set(published.map(({ messageId }) => messageId)).size, 1);
    assert.deepEqual(
      published.map(({ duplicate }) => duplicate),
      [false, true, true],
    );
  });

  it("keeps a row whose publish was not answered, and does not call it failed for good", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    unanswered(world.adapter.faults, "publish", 5);
    world.bus.relay();
    await add(world, good, 1);
    await eventually(world, () => waiting(database) === 0);

    assert.equal(world.of("relayParked").length, 0);
    assert.equal(world.of("relayed").length, 1);
  });

  it("goes on with other topics while one refuses, and keeps the order of its keys", async () => {
    const database = await openStore();
    let refuses = true;
    const adapter = answering(({ destination }) =>
      refuses && destination.topic.name === "bad" ? refused("ERR_DESTINATION", false) : undefined,
    );
    const world = openBus({ adapter, store: database.store });
    world.bus.relay({ batch: 5 });
    await add(world, bad, 1, 2);
    await add(world, good, 1);
    await eventually(world, () => adapter.taken.includes("good 1"));
    for (let i = 2; i < 10; i++) {
      await add(world, bad, i + 1);
      await add(world, good, i);
      await eventually(world, () => adapter.taken.includes(`good ${i}`));
    }
    assert.equal(waiting(database), 10);

    refuses = false;
    await eventually(world, () => waiting(database) === 0, 1_000);

    assert.deepEqual(
      adapter.taken.filter((name) => name.startsWith("bad")),
      Array.from({ length: 10 }, (_, i) => `bad ${i + 1}`),
    );
    assert.ok(
      world.of("relayFailed").length < 40,
      `${world.of("relayFailed").length} tries at a topic that refuses`,
    );
  });

  it("puts a row aside that can never be published, and goes on with the next of its key", async () => {
    const database = await openStore();
    const adapter = answering((message) =>
      nameOf(message) === "bad 1"
        ? {
            status: "rejected",
            error: Object.assign(brokerError("too large"), {
              code: "ERR_TOO_LARGE",
              retryable: false,
            }) as never,
          }
        : undefined,
    );
    const world = openBus({ adapter, store: database.store });
    world.bus.relay();
    await add(world, bad, 1, 2);
    await eventually(world, () => waiting(database) === 0);

    assert.deepEqual(adapter.taken, ["bad 2"]);
    assert.equal(world.of("relayParked").length, 1);
    assert.equal((await database.store.outbox.backlog()).parked, 1);
  });

  it("waits longer and longer while the broker is away, and new rows are no reason to hurry", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    const calls = failing(world.adapter.faults, "connect", Infinity);
    world.bus.relay();
    for (let i = 0; i < 300; i++) {
      await add(world, good, i);
      await world.runtime.advance(1_000);
    }

    const failures = world.of("relayFailed").length;
    assert.ok(failures > 0, "nothing was tried");
    assert.ok(calls.calls < 600, `${calls.calls} connection attempts in five minutes`);
    world.adapter.faults.before = undefined;
    await eventually(world, () => waiting(database) === 0, 1_000);
  });

  it("finds soon what a transaction of the caller's own commits after it was told to look", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    const relay = world.bus.relay();
    await eventually(world, () => relay.health().active);
    await world.runtime.advance(30_000);
    const db = new DatabaseSync(database.path);
    onTestFinished(() => db.close());

    db.exec("BEGIN IMMEDIATE");
    await world.bus.outbox(db).publish(good, 1);
    await world.runtime.advance(20);
    db.exec("COMMIT");
    const committedAt = world.runtime.monotonic();
    await eventually(world, () => world.of("published").length > 0, 1);

    assert.ok(world.runtime.monotonic() - committedAt <= 20);
  });

  it("purges all that is old from the inbox, however much there is", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store, inboxRetention: "1h" });
    await world.bus.connect();
    await database.store.transaction(async (tx) => {
      const insert = tx.prepare(
        "INSERT INTO postrider_inbox (scope, key, redrives, outcome, at) VALUES ('s', ?, 0, 'handled', ?)",
      );
      for (let i = 0; i < 12_000; i++) insert.run(String(i), world.runtime.now() - 7_200_000);
      insert.run("fresh", world.runtime.now());
    });
    const left = (): number => database.rows("SELECT key FROM postrider_inbox").length;

    world.bus.relay();
    await eventually(world, () => left() < 12_001);
    await world.runtime.advance(1_000);

    assert.equal(left(), 1);
  });

  it("is started by a consumer that needs it: for its dead letters, and for the inbox to be purged", async () => {
    const database = await openStore();
    for (const once of ["lease", "transaction"] as const) {
      const world = openBus({ store: database.another() });
      await world.bus.consume(good, { group: "g", once }, () => undefined);
      assert.ok(Object.hasOwn(world.bus.health().checks, "relay"), once);
      await world.bus.close();
    }
    const world = openBus({ store: database.another() });
    await world.bus.consume(good, { group: "g", once: false }, () => undefined);
    assert.ok(!Object.hasOwn(world.bus.health().checks, "relay"));
  });

  it("is replaced by the one that is asked for: two would only wait for each other", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    let attempts = 0;
    database.faults.before = (operation) => void (attempts += operation === "outbox.acquire" ? 1 : 0);
    await world.bus.once("key", () => undefined);
    await eventually(world, () => attempts === 1);

    const relay = world.bus.relay({ order: "global" });
    await eventually(world, () => relay.health().active);
    await world.runtime.advance(30_000);

    assert.equal(attempts, 2);
    assert.equal(world.of("relayFailed").length, 0);
  });

  it("stays when the one that is asked for cannot be", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    await world.bus.once("key", () => undefined);

    assert.throws(() => world.bus.relay({ order: "fifo" } as never), { code: "ERR_CONFIG" });
    await add(world, good, 1);
    await eventually(world, () => waiting(database) === 0);
  });
});

describe("two relays", () => {
  it("do not work at the same time, and the second takes over when the first closes", async () => {
    const database = await openStore();
    const first = openBus({ store: database.store });
    const second = openBus({ store: database.another(), runtime: first.runtime });
    const relay = first.bus.relay();
    await eventually(first, () => relay.health().active);
    const standby = second.bus.relay();
    await first.runtime.advance(30_000);
    assert.deepEqual([relay.health().active, standby.health().active], [true, false]);

    const closed = relay.close();
    await eventually(first, () => standby.health().active);
    await closed;

    assert.equal(relay.health().active, false);
  });

  it("one that cannot renew its lease stops before another may begin, in the middle of a page too", async () => {
    const database = await openStore();
    const first = openBus({ store: database.store });
    const second = openBus({ store: database.another(), runtime: first.runtime });
    const relay = first.bus.relay();
    await eventually(first, () => relay.health().active);
    const standby = second.bus.relay();
    // Its broker takes a second for each message, and none of its renewals reaches the database any more.
    const calls: number[] = [];
    first.adapter.faults.before = async (operation) => {
      if (operation !== "publish") return undefined;
      calls.push(first.runtime.monotonic());
      await first.runtime.sleep(1_100);
      return undefined;
    };
    await add(first, bad, 1, 2, 3, 4, 5, 6, 7, 8);
    await eventually(first, () => calls.length > 0);
    database.faults.before = (operation) => (operation === "outbox.renew" ? storeDown() : undefined);
    await eventually(first, () => standby.health().active);
    const takenOverAt = first.runtime.monotonic();
    await first.runtime.advance(60_000);

    assert.ok(calls.length >= 2, "the first relay stopped too early to tell");
    assert.ok((calls.at(-1) ?? Infinity) < takenOverAt, "the first relay went on after its lease was over");
    const ids = [first, second].flatMap((each) => each.of("published").map(({ messageId }) => messageId));
    assert.equal(new Set(ids).size, 8);
    assert.equal(waiting(database), 0);
  });
});

describe("closing a relay", () => {
  it("finishes what is under way, leaves the rest, and lets the lease go", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    const relay = world.bus.relay();
    await eventually(world, () => relay.health().active);
    const held = holding(world.adapter.faults, "publish");
    await add(world, bad, 1, 2, 3);
    await eventually(world, () => held.calls > 0);

    const closed = relay.close();
    held.letGo();
    for (let i = 0; i < 20; i++) await world.runtime.advance(10);
    await closed;
    await relay.close();

    assert.equal(world.of("published").length, 1);
    assert.equal(waiting(database), 2);
    assert.deepEqual(database.rows("SELECT expires, clean FROM postrider_relay"), [{ expires: 0, clean: 1 }]);
    assert.equal(world.runtime.nextTimerMs, undefined);
  });

  it("while it stands by, or waits, is at once", async () => {
    const database = await openStore();
    const world = openBus({ store: database.store });
    database.faults.before = (operation) => (operation === "outbox.fetch" ? storeDown() : undefined);
    const relay = world.bus.relay();
    await eventually(world, () => world.of("relayFailed").length > 3);

    await relay.close();

    assert.equal(world.runtime.nextTimerMs, undefined);
  });
});
