import assert from "node:assert/strict";
import type { DatabaseSync } from "node:sqlite";
import { constant } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus, until } from "../support/bus.ts";
import { failing, holding } from "../support/faults.ts";
import { openStore, storeDown } from "../support/store.ts";
import { busOn, ended, freshName, group, inbox, lease, topic } from "./world.ts";

describe("a claim", () => {
  it("is extended while the handler runs", async () => {
    const database = await openStore();
    const world = busOn(database);
    const finish = Promise.withResolvers<void>();
    await world.bus.consume(topic, lease, () => finish.promise);
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => inbox(database).length === 1);

    await world.runtime.advance(300_000);
    await world.runtime.advance(5_000);

    const [row] = database.rows("SELECT lease_until FROM postrider_inbox") as { lease_until: number }[];
    assert.ok((row?.lease_until ?? 0) > world.runtime.now(), "the claim ran out under a running handler");
    finish.resolve();
    await ended(world, 1);
  });

  it("is extended although the broker does not answer about the lease of the delivery", async () => {
    const database = await openStore();
    const world = busOn(database);
    const held = holding(world.adapter.faults, "extend");
    let runs = 0;
    await world.bus.consume(topic, lease, () => {
      runs += 1;
      return new Promise<never>(() => undefined);
    });
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => inbox(database).length === 1);

    for (let i = 0; i < 12; i += 1) await world.runtime.advance(10_000);

    const [row] = database.rows("SELECT lease_until FROM postrider_inbox") as { lease_until: number }[];
    assert.ok((row?.lease_until ?? 0) > world.runtime.now(), "the claim ran out beside a broker that hangs");
    assert.equal(runs, 1);
    held.letGo();
  });

  it("that cannot be extended, because the store does not answer, leaves the delivery ours", async () => {
    const database = await openStore();
    const world = busOn(database);
    const { promise, resolve } = Promise.withResolvers<undefined>();
    database.faults.before = (operation) => (operation === "inbox.extend" ? promise : undefined);
    const asked = failing(world.adapter.faults, "extend", 0);
    await world.bus.consume(topic, lease, () => new Promise<never>(() => undefined));
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => inbox(database).length === 1);

    await world.runtime.advance(120_000);

    assert.ok(asked.calls >= 10, `the broker was asked ${asked.calls} times in twelve thirds of the lease`);
    resolve(undefined);
  });

  it("is extended, and the handler goes on, also when the broker has taken the delivery back", async () => {
    const database = await openStore();
    const world = busOn(database);
    const finish = Promise.withResolvers<void>();
    let runs = 0;
    await world.bus.consume(topic, lease, () => {
      runs += 1;
      return finish.promise;
    });
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => runs === 1);

    world.adapter.faults.disconnect();
    await world.runtime.advance(120_000);
    finish.resolve();
    for (let i = 0; i < 100 && !world.outcomes().includes("duplicate"); i++) await world.runtime.advance(500);

    assert.equal(runs, 1);
    assert.deepEqual(world.outcomes(), ["staleSettle", "duplicate"]);
    assert.deepEqual(inbox(database), [{ key: "1", outcome: "handled", claimed: 0 }]);
  });

  it("that was lost to another consumer aborts the handler, and nothing is settled by it", async () => {
    const database = await openStore();
    const world = busOn(database);
    const reasons: unknown[] = [];
    let runs = 0;
    await world.bus.consume(topic, lease, (_id, { signal }) => {
      runs += 1;
      if (runs > 1) return undefined;
      signal.addEventListener("abort", () => reasons.push((signal.reason as { code?: string }).code));
      return new Promise(() => undefined);
    });
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => inbox(database).length === 1);

    // This process stalls past its lease; another one takes the claim.
    const other = database.another();
    await other.connect({ runtime: world.runtime, emit: () => undefined });
    await other.transaction(async (tx: DatabaseSync) => {
      tx.prepare("UPDATE postrider_inbox SET token = 'other', lease_until = ?").run(
        world.runtime.now() + 25_000,
      );
    });
    await world.runtime.advance(10_000);
    await until(world.runtime, () => reasons.length > 0);

    assert.deepEqual(reasons, ["ERR_LEASE_LOST"]);
    assert.deepEqual(world.outcomes(), []);
    assert.deepEqual(inbox(database), [{ key: "1", outcome: null, claimed: 1 }]);
    await world.runtime.advance(60_000);
    await ended(world, 1);
    assert.equal(runs, 2);
    await other.close();
  });

  it("whose answer was lost is asked for again by the same one, and does not stand in its own way", async () => {
    const database = await openStore();
    const world = busOn(database);
    let lost = 0;
    database.faults.after = (operation) =>
      operation === "inbox.claim" && (lost += 1) === 1 ? storeDown() : undefined;
    let runs = 0;
    await world.bus.consume(topic, lease, () => void (runs += 1));
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => world.of("storeFailed").length === 1);

    await world.runtime.advance(1_000);
    await ended(world, 1);

    assert.equal(runs, 1);
    assert.equal(world.of("busy").length, 0);
  });

  it("is given up when the message is given back", async () => {
    const database = await openStore();
    const world = busOn(database);
    const consumer = await world.bus.consume(topic, lease, () => new Promise(() => undefined));
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => inbox(database).length === 1);

    const closed = consumer.close({ timeout: 100 });
    await world.runtime.advance(100);
    await until(world.runtime, () => inbox(database).length === 0);
    await world.runtime.advance(1_000);
    await closed;
  });
});

describe.each(["inbox.claim", "inbox.complete"])("when the store fails at %s", (operation) => {
  it("no handler runs without protection, nothing is counted, and it goes on when the store is back", async () => {
    const database = await openStore();
    const world = busOn(database);
    let calls = 0;
    database.faults.before = (one) => (one === operation && (calls += 1) <= 5 ? storeDown() : undefined);
    let runs = 0;
    await world.bus.consume(topic, lease, (_id, { attempt }) => {
      runs += 1;
      assert.equal(attempt, 1);
    });
    await world.bus.publish(topic, "one", { id: "1" });
    for (let i = 0; i < 200 && world.of("handled").length === 0; i++) await world.runtime.advance(500);

    assert.equal(runs, 1);
    assert.deepEqual(world.outcomes(), ["handled"]);
    assert.equal(world.of("storeFailed").length, 5);
    assert.ok(world.of("storeFailed").every(({ error }) => error.message === "the database is down"));
  });

  it("the message is given back on closing, unsettled and uncounted", async () => {
    const database = await openStore();
    const name = freshName();
    const world = busOn(database, name);
    database.faults.before = (one) => (one === operation ? storeDown() : undefined);
    const consumer = await world.bus.consume(topic, lease, () => undefined);
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => world.of("storeFailed").length > 0);

    const closed = consumer.close({ timeout: "1s" });
    await world.runtime.advance(5_000);
    await closed;

    assert.deepEqual(world.outcomes(), []);
    const other = openBus({ adapter: memory({ name }) });
    const attempts: number[] = [];
    await other.bus.consume(topic, { group }, (_id, { attempt }) => void attempts.push(attempt));
    await until(other.runtime, () => attempts.length === 1);
    assert.deepEqual(attempts, [1]);
  });
});

describe("when the store fails at inbox.release", () => {
  it("the message is retried all the same, after the claim has run out", async () => {
    const database = await openStore();
    const world = busOn(database);
    database.faults.before = (one) => (one === "inbox.release" ? storeDown() : undefined);
    let runs = 0;
    const retry = { maxAttempts: 3, backoff: constant("2s") };
    await world.bus.consume(topic, { ...lease, retry }, () => {
      runs += 1;
      if (runs === 1) throw new Error("once");
    });
    await world.bus.publish(topic, "one", { id: "1" });
    for (let i = 0; i < 100 && world.of("handled").length === 0; i++) await world.runtime.advance(1_000);

    assert.equal(runs, 2);
    assert.deepEqual(world.outcomes(), ["retry", "handled"]);
  });
});
