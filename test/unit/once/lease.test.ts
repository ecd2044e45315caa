import assert from "node:assert/strict";
import { constant, deadLetter, discard } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { openBus, until } from "../support/bus.ts";
import { failing, holding } from "../support/faults.ts";
import { openStore } from "../support/store.ts";
import { busOn, ended, group, inbox, lease, publishPastTheBroker, topic } from "./world.ts";

describe("once by lease", () => {
  it("runs the handler under a claim and enters how it ended before the message is settled", async () => {
    const database = await openStore();
    const world = busOn(database);
    const seen: unknown[] = [];
    const acks = failing(world.adapter.faults, "ack", 1);
    await world.bus.consume(topic, lease, (id) => {
      seen.push(inbox(database));
      return id === "old" ? discard("old") : undefined;
    });

    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => acks.calls === 1);
    assert.deepEqual(inbox(database), [{ key: "1", outcome: "handled", claimed: 0 }]);
    await world.runtime.advance(1_000);
    await world.bus.publish(topic, "old", { id: "2" });
    await ended(world, 2);

    assert.deepEqual(seen, [
      [{ key: "1", outcome: null, claimed: 1 }],
      [
        { key: "1", outcome: "handled", claimed: 0 },
        { key: "2", outcome: null, claimed: 1 },
      ],
    ]);
    assert.deepEqual(inbox(database).at(1), { key: "2", outcome: "discarded", claimed: 0 });
  });

  it("is the default with a store", async () => {
    const database = await openStore();
    const world = busOn(database);
    await world.bus.consume(topic, { group }, () => undefined);
    await world.bus.publish(topic, "one", { id: "1" });
    await ended(world, 1);

    assert.deepEqual(inbox(database), [{ key: "1", outcome: "handled", claimed: 0 }]);
  });

  it("lets go of a message that could not be settled when the consumer leaves, so that the next need not wait", async () => {
    const database = await openStore();
    const world = busOn(database);
    const consumer = await world.bus.consume(topic, lease, () => deadLetter("odd"));
    failing(world.adapter.faults, "deadLetter", Infinity);
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => world.of("settleFailed").length > 0);
    assert.equal(inbox(database).length, 1);

    const closed = consumer.close({ timeout: "1s" });
    await world.runtime.advance(2_000);
    await closed;

    await until(world.runtime, () => inbox(database).length === 0);
  });

  it("settles a message that was handled before without running the handler", async () => {
    const database = await openStore();
    const world = busOn(database);
    let runs = 0;
    await world.bus.consume(topic, lease, () => void (runs += 1));

    // Two ids, one idempotency key: no broker removes the second.
    await publishPastTheBroker(world, { id: "1", idempotencyKey: "k" });
    await ended(world, 1);
    await publishPastTheBroker(world, { id: "2", idempotencyKey: "k" });
    await ended(world, 2);

    assert.equal(runs, 1);
    assert.deepEqual(world.outcomes(), ["handled", "duplicate"]);
  });

  it("runs the handler once when a message comes twice at the same time", async () => {
    const database = await openStore();
    const world = busOn(database);
    const finish = Promise.withResolvers<void>();
    let runs = 0;
    await world.bus.consume(topic, lease, () => {
      runs += 1;
      return finish.promise;
    });
    for (const id of ["1", "2"]) await publishPastTheBroker(world, { id, idempotencyKey: "k" });
    await until(world.runtime, () => world.of("busy").length > 0);

    await world.runtime.advance(2_000);
    finish.resolve();
    await world.runtime.advance(1_000);
    await ended(world, 2);

    assert.equal(runs, 1);
    assert.deepEqual(world.outcomes(), ["handled", "duplicate"]);
    assert.ok(world.of("busy").length >= 2, "a busy message was counted as failed");
  });

  it("runs again after a failure, and a dead letter ends it", async () => {
    const database = await openStore();
    const world = busOn(database);
    const retry = { maxAttempts: 2, backoff: constant("10s") };
    await world.bus.consume(topic, { ...lease, retry }, () => {
      throw new Error("always");
    });

    await world.bus.publish(topic, "one", { id: "1" });
    await ended(world, 1);
    await until(world.runtime, () => inbox(database).length === 0);
    await world.runtime.advance(10_000);
    await ended(world, 2);
    await until(world.runtime, () => inbox(database).length === 1);

    assert.deepEqual(inbox(database), [{ key: "1", outcome: "dead", claimed: 0 }]);
  });

  it("lets a redriven message run again", async () => {
    const database = await openStore();
    const world = busOn(database);
    let fixed = false;
    await world.bus.consume(topic, lease, () => (fixed ? undefined : deadLetter("broken")));
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => world.of("deadLettered").length === 1);
    await until(world.runtime, () => JSON.stringify(inbox(database)).includes("dead"));
    fixed = true;

    const report = await world.bus.deadLetters(topic, { group }).redrive();
    await until(world.runtime, () => world.of("handled").length === 1);

    assert.deepEqual(report, { matched: 1, redriven: 1 });
    assert.deepEqual(inbox(database), [{ key: "1", outcome: "handled", claimed: 0 }]);
  });

  it("never takes a message for ended whose dead letter was not written, because it was lost before", async () => {
    const database = await openStore();
    const world = busOn(database);
    const held = holding(world.adapter.faults, "deadLetter");
    let runs = 0;
    await world.bus.consume(topic, lease, () => {
      runs += 1;
      return runs === 1 ? deadLetter("broken") : undefined;
    });
    await world.bus.publish(topic, "one", { id: "1" });
    await until(world.runtime, () => held.calls === 1);

    // The broker takes the delivery back, and hands it over again, before the dead letter is written.
    world.adapter.faults.disconnect();
    held.letGo();
    await until(world.runtime, () => world.of("staleSettle").length === 1);
    await world.runtime.advance(60_000);

    assert.equal(runs, 2, "the message was lost: neither handled nor dead-lettered");
    assert.equal(world.of("handled").length, 1);
  });

  it("does not dead-letter a message again that was handled, when it comes with what cannot be attempted", async () => {
    const database = await openStore();
    const broker = memory();
    let redeliveries = 0;
    const adapter = {
      ...broker,
      subscribe: ((spec, sink) =>
        broker.subscribe(spec, {
          ...sink,
          deliver: (raws) => sink.deliver(raws.map((raw) => Object.assign(raw, { redeliveries }))),
        })) as typeof broker.subscribe,
    };
    const world = openBus({ adapter, store: database.store });
    await world.bus.consume(topic, lease, () => undefined);
    await publishPastTheBroker(world, { id: "1", idempotencyKey: "k" });
    await ended(world, 1);

    // Handled, but never acked: the broker hands it over again and again.
    redeliveries = 20;
    await publishPastTheBroker(world, { id: "2", idempotencyKey: "k" });
    await ended(world, 2);

    assert.deepEqual(world.outcomes(), ["handled", "duplicate"]);
  });
});
