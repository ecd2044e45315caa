/** The PostgreSQL store on a PGlite, for tests of programs; and its transactions as handles of `bus.outbox`. */
import assert from "node:assert/strict";
import type { Transaction } from "@electric-sql/pglite";
import { type BusEvent, createBus, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { postgres } from "postrider/postgres";
import { eventually } from "postrider/testing";
import { afterAll, beforeAll, describe, it, onTestFinished } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import type { Store } from "../../src/store.ts";
import { storeConformance } from "postrider/testing";
import { entry, watch } from "../../src/testing/store/world.ts";
import { type PgliteTestDatabase, closePglites, openPgliteDatabase } from "../support/pglite-database.ts";
import { txError } from "./postgres-setup.ts";

storeConformance({
  runner: { describe, it, beforeAll, afterAll },
  name: "postgres on PGlite",
  backend: async () => ({ server: false, oneSession: true, open: openPgliteDatabase, close: closePglites }),
});

describe("postgres on PGlite", () => {
  afterAll(closePglites);

  const open = async (): Promise<PgliteTestDatabase & { readonly connected: Store }> => {
    const database = await openPgliteDatabase();
    const connected = await database.store();
    onTestFinished(async () => {
      await connected.close();
      await database.close();
    });
    await connected.connect({ runtime: nodeRuntime, emit: () => undefined });
    return { ...database, connected };
  };

  it("sends in a transaction of PGlite, when it commits and only then, and warns of PGlite once", async () => {
    const database = await open();
    const { pglite } = database;
    const topic = defineTopic<string>("note");
    const events: BusEvent[] = [];
    await using bus = createBus({
      adapter: memory(),
      store: postgres({ pglite }),
      onEvent: (event) => void events.push(event),
    });
    const received: string[] = [];
    await bus.consume(topic, { group: "g", once: "transaction" }, async (text, { tx }) => {
      await database.addEffect(tx, `received ${text}`);
      received.push(text);
    });
    bus.relay();

    await pglite.transaction(async (tx) => {
      await database.addEffect(tx, "sent");
      await bus.outbox(tx).publish(topic, "kept");
    });
    const failing = pglite.transaction(async (tx) => {
      await bus.outbox(tx).publishAll(topic, ["lost", "too"]);
      throw new Error("rolled back");
    });
    await assert.rejects(failing, /rolled back/u);
    await pglite.transaction((tx) => bus.outbox(tx).publish(topic, "last"));

    await eventually(async () =>
      assert.deepEqual(await database.effects(), ["sent", "received kept", "received last"]),
    );
    assert.deepEqual(received, ["kept", "last"]);
    const warnings = events.flatMap((event) => (event.type === "warning" ? [event] : []));
    assert.deepEqual(
      warnings.map(({ code }) => code),
      ["POSTGRES_FSYNC"],
    );
    assert.match(warnings[0]?.message ?? "", /PGlite is for tests, it never flushes to disk/u);
  });

  it("refuses a transaction that has ended or failed, and what is none", async () => {
    const { pglite, connected } = await open();
    const other = await openPgliteDatabase();
    onTestFinished(() => other.close());
    let late: Transaction | undefined;

    await pglite.transaction(async (tx) => {
      late = tx;
      await connected.outbox.append(tx, [entry("kept")]);
    });
    const failed = pglite.transaction(async (tx) => {
      await tx.query("SELECT 1 / 0").catch(() => undefined);
      await connected.outbox.append(tx, [entry("no")]);
    });
    const elsewhere = other.pglite.transaction((tx) => connected.outbox.append(tx, [entry("no")]));

    await assert.rejects(failed, txError(/roll back/u));
    await assert.rejects(elsewhere, txError(/on another database/u));
    await assert.rejects(
      async () => connected.outbox.append(late, [entry("no")]),
      txError(/no open transaction on this transaction of PGlite: publish inside/u),
    );
    await assert.rejects(
      async () => connected.outbox.append(pglite, [entry("no")]),
      txError(/a PGlite is not a transaction: pass the tx/u),
    );
    const page = await connected.outbox.fetch({ above: 0n, parkedTopics: [], limit: 9 });
    assert.equal(page.rows.length, 1);
  });

  it("does nothing within a transaction of the user's, nor lets the user do anything within its own", async () => {
    const database = await open();
    const { pglite, connected } = database;
    const [begun, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];

    const theirs = pglite.transaction(async (tx) => {
      await connected.outbox.append(tx, [entry("ghost")]);
      begun.resolve();
      await go.promise;
      throw new Error("rolled back");
    });
    await begun.promise;
    const fetching = connected.outbox.fetch({ above: 0n, parkedTopics: [], limit: 9 });
    const watched = watch(fetching);
    await Promise.resolve();
    assert.equal(watched.settled, false);
    go.resolve();
    await assert.rejects(theirs, /rolled back/u);
    assert.deepEqual((await fetching).rows, []);

    let beside: Promise<unknown> | undefined;
    const ours = connected.transaction(async (tx) => {
      await database.addEffect(tx, "lost");
      beside = pglite.query("INSERT INTO effects (id) VALUES ('beside')");
      await database.addEffect(tx, "lost too");
      throw new Error("rolled back");
    });
    await assert.rejects(ours, /rolled back/u);
    await beside;
    assert.deepEqual(await database.effects(), ["beside"]);
  });

  it("refuses what is no PGlite, and options beside it", async () => {
    const { pglite } = await open();

    assert.throws(() => postgres({ pglite: {} as typeof pglite }), {
      code: "ERR_CONFIG",
      message: /PGlite of/u,
    });
    assert.throws(() => postgres({ pglite, max: 3 }), {
      code: "ERR_CONFIG",
      message: /"max" has no effect beside "pglite"/u,
    });
  });
});
