import assert from "node:assert/strict";
import type { DatabaseSync } from "node:sqlite";
import { type Bus, constant, deadLetter } from "postrider";
import { describe, it } from "vitest";
import { textOf } from "../../../src/inspect.ts";
import { until } from "../support/bus.ts";
import { type TestStore, openStore, storeDown } from "../support/store.ts";
import { busOn, group, inbox, topic } from "./world.ts";

describe("once in a transaction", () => {
  const transactional = { group, once: "transaction", lease: "30s" } as const;
  const effect = (tx: unknown, id: string): void => {
    (tx as DatabaseSync).prepare("INSERT INTO effects (id) VALUES (?)").run(id);
  };
  const effects = (database: TestStore): unknown[] =>
    database.rows("SELECT id FROM effects").map((row) => (row as { id: string }).id);

  it("has the effects of a message once, however often its commit is not answered", async () => {
    const database = await openStore();
    const world = busOn(database);
    let lost = 0;
    database.faults.after = (operation) =>
      operation === "transaction" && (lost += 1) <= 3 ? storeDown() : undefined;
    await world.bus.consume(topic, transactional, (id, { tx }) => effect(tx, id));
    await world.bus.publish(topic, "one", { id: "1" });
    for (let i = 0; i < 100 && world.outcomes().length === 0; i++) await world.runtime.advance(500);

    assert.deepEqual(effects(database), ["one"]);
    assert.deepEqual(world.outcomes(), ["duplicate"]);
    assert.equal(world.of("retry").length, 0, "an unknown commit was counted as a failure of the handler");
  });

  it("lets a handler finish whose delivery was lost, and settles the next delivery without running it", async () => {
    const database = await openStore();
    const world = busOn(database);
    const started = Promise.withResolvers<void>();
    const finish = Promise.withResolvers<void>();
    let aborted = false;
    await world.bus.consume(topic, transactional, async (id, { tx, signal }) => {
      signal.addEventListener("abort", () => (aborted = true));
      started.resolve();
      await finish.promise;
      effect(tx, id);
    });
    await world.bus.publish(topic, "one", { id: "1" });
    await started.promise;

    world.adapter.faults.disconnect();
    finish.resolve();
    for (let i = 0; i < 100 && world.outcomes().length < 2; i++) await world.runtime.advance(500);

    assert.deepEqual(effects(database), ["one"]);
    assert.deepEqual(world.outcomes(), ["staleSettle", "duplicate"]);
    assert.equal(aborted, false);
  });

  it("counts a commit that the database refuses for good, and dead-letters in the end", async () => {
    const database = await openStore();
    const world = busOn(database);
    const retry = { maxAttempts: 2, backoff: constant("2s") };
    await world.bus.consume(topic, { ...transactional, retry }, (_id, { tx }) => {
      const db = tx as DatabaseSync;
      db.exec("PRAGMA foreign_keys = ON");
      db.exec("CREATE TABLE IF NOT EXISTS parents (id INTEGER PRIMARY KEY)");
      db.exec(
        "CREATE TABLE IF NOT EXISTS children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)",
      );
      db.exec("PRAGMA defer_foreign_keys = ON");
      db.exec("INSERT INTO children (parent) VALUES (7)");
    });
    await world.bus.publish(topic, "one", { id: "1" });
    for (let i = 0; i < 100 && world.of("deadLettered").length === 0; i++) await world.runtime.advance(500);

    assert.equal(world.of("retry").length, 1);
    assert.equal(world.of("deadLettered")[0]?.reason, "exhausted");
    assert.match(textOf(world.of("retry")[0]?.error), /constraint/u);
  });

  it("rolls back with a failure of the handler, counts it, and the next attempt has the effect", async () => {
    const database = await openStore();
    const world = busOn(database);
    const retry = { maxAttempts: 3, backoff: constant("2s") };
    await world.bus.consume(topic, { ...transactional, retry }, (id, { tx, attempt }) => {
      effect(tx, `${id} by ${attempt}`);
      if (attempt === 1) throw new Error("once");
    });
    await world.bus.publish(topic, "one", { id: "1" });
    for (let i = 0; i < 20 && world.of("handled").length === 0; i++) await world.runtime.advance(500);

    assert.deepEqual(effects(database), ["one by 2"]);
  });

  it("times out: nothing the handler still does takes effect", async () => {
    const database = await openStore();
    const world = busOn(database);
    const late: unknown[] = [];
    const finish = Promise.withResolvers<void>();
    const options = { ...transactional, timeout: "1s", retry: { maxAttempts: 2, backoff: constant("2s") } };
    await world.bus.consume(topic, options as never, async (id, { tx, attempt }) => {
      effect(tx, `${id} by ${attempt}`);
      if (attempt > 1) return;
      await finish.promise;
      try {
        effect(tx, "late");
      } catch (error) {
        late.push(error);
      }
    });
    await world.bus.publish(topic, "one", { id: "1" });
    await world.runtime.advance(1_000);
    await until(world.runtime, () => world.of("retry").length === 1);
    finish.resolve();
    for (let i = 0; i < 20 && world.of("handled").length === 0; i++) await world.runtime.advance(500);

    assert.deepEqual(effects(database), ["one by 2"]);
    assert.equal(late.length, 1);
  });

  it("never has both an effect and a dead letter of one message", async () => {
    const database = await openStore();
    const world = busOn(database);
    const retry = { maxAttempts: 1 };
    let lost = 0;
    // The handler's commit is never answered; by the time it looks failed it has happened.
    database.faults.after = (operation) =>
      operation === "transaction" && (lost += 1) === 1 ? storeDown() : undefined;
    await world.bus.consume(topic, { ...transactional, retry, timeout: "1s" } as never, (id, { tx }) =>
      effect(tx, id),
    );
    await world.bus.publish(topic, "one", { id: "1" });
    for (let i = 0; i < 50 && world.outcomes().length === 0; i++) await world.runtime.advance(500);

    assert.deepEqual(effects(database), ["one"]);
    assert.deepEqual(await letters(world.bus), []);
  });

  it("sends its dead letter through the outbox, and settles the message only after that was committed", async () => {
    const database = await openStore();
    const world = busOn(database);
    let down = true;
    database.faults.before = (operation) => (operation === "outbox.append" && down ? storeDown() : undefined);
    await world.bus.consume(topic, transactional, () => deadLetter("broken"));
    await world.bus.publish(topic, "one", { id: "1" });
    await world.runtime.advance(20_000);
    assert.deepEqual(world.outcomes(), []);
    assert.ok(world.of("storeFailed").length > 2);

    down = false;
    for (let i = 0; i < 100 && world.of("relayed").length === 0; i++) await world.runtime.advance(1_000);

    assert.deepEqual(world.outcomes(), ["deadLettered"]);
    assert.equal((await letters(world.bus)).length, 1);
    assert.deepEqual(inbox(database), [{ key: "1", outcome: "dead", claimed: 0 }]);
  });
});

function letters(bus: Bus): Promise<unknown[]> {
  return Array.fromAsync(bus.deadLetters(topic, { group }).list());
}
