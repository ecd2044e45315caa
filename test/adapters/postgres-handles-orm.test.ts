/** The transactions of ORMs as handles of `bus.outbox`, each of the real ORM. */
import assert from "node:assert/strict";
import { createBus, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { postgres } from "postrider/postgres";
import { eventually } from "postrider/testing";
import { afterAll, describe, it, onTestFinished } from "vitest";
import type { Store } from "../../src/store.ts";
import { entry, watch } from "../../src/testing/store/world.ts";
import { openPostgresDatabase } from "../support/postgres-database.ts";
import { type Orm, orms, removePrismaClient } from "../support/postgres-orms.ts";
import { setupDatabase, txError } from "./postgres-setup.ts";

const setup = setupDatabase();
afterAll(removePrismaClient);
const note = defineTopic<string>("note");
const effect = (id: string): string => `INSERT INTO effects (id) VALUES ('${id}')`;

describe.each(Object.keys(orms))("a transaction of %s", (name) => {
  const openOrm = async (url = setup.database.url, connections?: number): Promise<Orm> => {
    const orm = await (orms[name] as (typeof orms)[string])(url, connections);
    onTestFinished(() => orm.close());
    return orm;
  };
  const open = async (): Promise<readonly [Orm, Store]> => [await openOrm(), await setup.open()];

  it("takes the message with it when it commits, and not when it rolls back", async () => {
    const orm = await openOrm();
    await using bus = createBus({ adapter: memory(), store: postgres({ url: setup.database.url }) });
    const received: string[] = [];
    await bus.consume(note, { group: "g", once: false }, (text) => void received.push(text));
    bus.relay();

    await orm.transaction(async (tx) => {
      await orm.run(tx, effect("kept"));
      await bus.outbox(orm.handle(tx)).publish(note, "kept");
    });
    const failing = orm.transaction(async (tx) => {
      await orm.run(tx, effect("lost"));
      await bus.outbox(orm.handle(tx)).publishAll(note, ["lost", "too"]);
      throw new Error("rolled back");
    });
    await assert.rejects(failing, /rolled back/u);
    await orm.transaction(async (tx) => {
      await bus.outbox(orm.handle(tx)).publishAll(note, ["and", "more"]);
      await bus.outbox(orm.handle(tx)).publish(note, "of it");
    });

    await eventually(() => assert.deepEqual(received, ["kept", "and", "more", "of it"]));
    assert.deepEqual(await setup.database.effects(), ["kept"]);
  });

  it("refuses what is no transaction, by what it was given", async () => {
    const orm = await openOrm();

    const given: readonly (readonly [unknown, RegExp])[] = [
      [orm.mistaken, /takes .*; it was given (?:an object|a function)/u],
      [setup.database.pool, /it was given an object of class BoundPool/u],
      [{}, /it was given an object$/u],
      [undefined, /it was given undefined$/u],
      ["trx", /it was given a string/u],
    ];
    for (const [handle, message] of given) assert.throws(() => orm.handle(handle), txError(message));
    const store = await setup.open();
    await assert.rejects(
      async () => store.outbox.append(orm.mistaken, [entry("no")]),
      txError(/fromKysely\(trx\)/u),
    );
  });

  it("refuses once it has ended, also when another one has its connection", async () => {
    const [orm, store] = await open();
    const ended: unknown[] = [];
    const untouched: unknown[] = [];
    for (const _ of [1, 2])
      await orm.transaction(async (tx) => {
        ended.push(tx);
        await store.outbox.append(orm.handle(tx), [entry(`first ${ended.length}`)]);
      });
    const failing = orm.transaction(async (tx) => {
      ended.push(tx);
      await store.outbox.append(orm.handle(tx), [entry("lost")]);
      throw new Error("rolled back");
    });
    await assert.rejects(failing, /rolled back/u);
    await orm.transaction(async (tx) => void untouched.push(tx));

    const refuse = async (tx: unknown): Promise<void> =>
      assert.rejects(
        async () => store.outbox.append(orm.handle(tx), [entry("late")]),
        txError(/has ended|no open transaction on this/u),
      );
    for (const tx of [...ended, ...untouched]) await refuse(tx);
    await orm.transaction(async (tx) => {
      await orm.run(tx, effect("of another"));
      for (const late of ended) await refuse(late);
    });

    assert.deepEqual(await setup.outbox(), ["first 1", "first 2"]);
    assert.deepEqual(await setup.database.effects(), ["of another"]);
  });

  it("refuses when it has failed, and when it is on another database", async () => {
    const [orm, store] = await open();
    const other = await openPostgresDatabase();
    onTestFinished(() => other.close());
    const elsewhere = await openOrm(other.url);

    const failed = orm.transaction(async (tx) => {
      await Promise.resolve(orm.run(tx, "SELECT 1 / 0")).catch(() => undefined);
      const append = store.outbox.append(orm.handle(tx), [entry("no")]);
      await assert.rejects(append, txError(/An earlier statement failed: roll back/u));
      throw new Error("given up");
    });
    await assert.rejects(failed, /given up/u);
    const wrong = elsewhere.transaction((tx) => store.outbox.append(elsewhere.handle(tx), [entry("no")]));
    await assert.rejects(wrong, txError(/on another database than the store's/u));

    assert.deepEqual(await setup.outbox(), []);
    assert.deepEqual((await other.pool.query("SELECT 1 FROM postrider.outbox")).rows, []);
  });

  it("leaves nothing behind when it rolls back before the publish was awaited", async () => {
    const [orm, store] = await open();
    let late: Promise<void> | undefined;

    const failing = orm.transaction(async (tx) => {
      await store.outbox.append(orm.handle(tx), [entry("first")]);
      late = store.outbox.append(orm.handle(tx), [entry("late")]);
      late.catch(() => undefined);
      throw new Error("rolled back");
    });
    await assert.rejects(failing, /rolled back/u);
    await Promise.allSettled([late]);

    assert.deepEqual(await setup.outbox(), []);
  });

  it("carries any text, and thousands of messages for many keys, without a word of them in an error", async () => {
    const [orm, store] = await open();
    const text = "? \\? ?? $1 $2 :a @b %s ' \" \\ -- /* é 漢 🚀 - ";
    const many = Array.from({ length: 5_200 }, (_, i) => entry(`${i}`, { key: `key ${i % 50}` }));

    await orm.transaction(async (tx) => {
      const [one] = [entry("odd", { key: text, body: new TextEncoder().encode(JSON.stringify(text)) })];
      await store.outbox.append(orm.handle(tx), [one]);
      await store.outbox.append(orm.handle(tx), many);
    });
    const tooMany = orm.transaction(async (tx) => {
      await orm.run(tx, "ALTER TABLE postrider.outbox ADD CONSTRAINT no CHECK (body <> '\"secret\"')");
      await store.outbox.append(orm.handle(tx), [entry("secret")]);
    });
    await assert.rejects(tooMany, (error: Error) => {
      assert.match(error.message, /violates check constraint "no".*\(23514\)/u);
      assert.doesNotMatch(error.message, /secret/u);
      return true;
    });

    assert.deepEqual(await setup.outbox(), [text, ...many.map((_, i) => `${i}`)]);
  });

  it("waits for one that sends for the same key, so that their order is that of their commits", async () => {
    const store = await setup.open();
    const orm = await openOrm(setup.database.url, 3);
    const [added, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];

    const first = orm.transaction(async (tx) => {
      await store.outbox.append(orm.handle(tx), [entry("first", { key: "k" })]);
      added.resolve();
      await go.promise;
      await store.outbox.append(orm.handle(tx), [entry("third", { key: "k" })]);
    });
    await added.promise;
    const second = orm.transaction((tx) =>
      store.outbox.append(orm.handle(tx), [entry("second", { key: "k" })]),
    );
    const watched = watch(second);
    await orm.transaction((tx) => store.outbox.append(orm.handle(tx), [entry("other", { key: "o" })]));
    assert.equal(watched.settled, false, "the second did not wait for the first");
    go.resolve();
    await Promise.all([first, second]);

    const order = await setup.outbox();
    assert.deepEqual(
      order.filter((id) => id !== "other"),
      ["first", "third", "second"],
    );
  });
});
