/** Transactions on PostgreSQL: their end on the server, pools of the user's, isolation levels. */
import assert from "node:assert/strict";
import { type ClientBase, Pool } from "pg";
import { type BusEvent, createBus, defineTopic } from "postrider";
import { postgres } from "postrider/postgres";
import { eventually } from "postrider/testing";
import { describe, it, onTestFinished } from "vitest";
import { constant } from "../../src/retry/backoff.ts";
import { setupDatabase } from "./postgres-setup.ts";

const setup = setupDatabase();

describe("transactions", () => {
  it("end on the server when they are abandoned, whatever they were doing", async () => {
    const store = await setup.open();
    const abort = new AbortController();
    const key = { scope: "s", key: "k", redrives: 0 };
    const sleeping = async (): Promise<number> => {
      const { rows } = await setup.database.pool.query(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%'",
      );
      return rows.length;
    };

    const attempt = store.transaction(async (tx) => {
      await store.inbox.record(tx, key, "handled");
      await tx.query("SELECT pg_sleep(3600)");
    }, abort.signal);
    attempt.catch(() => undefined);
    await eventually(async () => assert.equal(await sleeping(), 1));
    abort.abort(new Error("time is up"));

    await assert.rejects(attempt, /time is up/u);
    await eventually(async () => assert.equal(await sleeping(), 0));
    assert.equal(await store.transaction((tx) => store.inbox.record(tx, key, "handled")), "fresh");
  });

  it("tell what the database refuses at the commit from what may work next time", async () => {
    const store = await setup.open();
    await setup.database.pool.query(`CREATE TABLE IF NOT EXISTS parent (id int PRIMARY KEY);
      CREATE TABLE IF NOT EXISTS child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)`);

    const deferred = store.transaction((tx) => tx.query("INSERT INTO child VALUES (1)"));
    await assert.rejects(deferred, {
      name: "StoreError",
      code: "ERR_STORE",
      retryable: false,
      message: /\(23503\)/u,
    });

    const write = async (tx: ClientBase): Promise<unknown> => {
      await tx.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
      await tx.query("SELECT count(*) FROM effects");
      return tx.query("INSERT INTO effects (id) VALUES ('x')");
    };
    const other = await setup.client();
    const conflicting = store.transaction(async (tx) => {
      await write(tx);
      await other.query("BEGIN");
      await write(other);
      await other.query("COMMIT");
    });
    await assert.rejects(conflicting, {
      name: "StoreError",
      code: "ERR_STORE",
      retryable: true,
      message: /\(40001\)/u,
    });
  });

  it("count a handler that swallows an error of the database as failed, attempt by attempt", async () => {
    const topic = defineTopic<string>("swallowed");
    const bus = createBus({
      adapter: "memory:",
      store: postgres({ url: setup.database.url }),
      onEvent: () => undefined,
    });
    onTestFinished(() => bus.close());
    let attempts = 0;
    const retry = { maxAttempts: 3, backoff: constant(5) };
    await bus.consume(topic, { group: "g", once: "transaction", retry }, async (_payload, { tx }) => {
      attempts += 1;
      await tx.query("SELECT 1 / 0").catch(() => undefined);
    });

    await bus.publish(topic, "poison");
    const [letter] = await eventually(async () => {
      const letters = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
      assert.equal(letters.length, 1);
      return letters;
    });

    assert.equal(attempts, 3);
    assert.equal(letter?.reason, "exhausted");
  });
});

describe("a pool of the user's", () => {
  it("of one connection makes everything wait its turn, and nothing for ever", async () => {
    const pool = new Pool({ connectionString: setup.database.url, max: 1 });
    onTestFinished(() => pool.end());
    const topic = defineTopic<string>("narrow");
    const bus = createBus({ adapter: "memory:", store: postgres({ pool }), onEvent: () => undefined });
    onTestFinished(() => bus.close());
    await bus.consume(topic, { group: "t", once: "transaction" }, async (payload, { tx }) => {
      await setup.database.addEffect(tx, `t ${payload}`);
    });
    const leased: string[] = [];
    await bus.consume(topic, { group: "l", once: "lease" }, (payload) => void leased.push(payload));

    await Promise.all(
      Array.from({ length: 20 }, (_, i) => bus.transaction((_tx, outbox) => outbox.publish(topic, `${i}`))),
    );

    await eventually(async () => {
      assert.equal((await setup.database.effects()).length, 20);
      assert.equal(leased.length, 20);
    });
  });

  it("is neither ended by the store, nor ends the process when a connection breaks while idle", async () => {
    const pool = new Pool({ connectionString: setup.database.url });
    const store = await setup.open({ pool });
    assert.equal(store.health().connected, true);
    let removed = 0;
    pool.on("remove", () => (removed += 1));

    await setup.database.pool.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    await eventually(() => assert.ok(removed > 0));
    // It mends by itself, without anybody asking for anything.
    await eventually(() => assert.equal(store.health().connected, true));
    await store.close();

    assert.equal(pool.listenerCount("error"), 0);
    assert.equal((await pool.query("SELECT 1")).rowCount, 1);
    await pool.end();
  });
});

describe("sessions that begin as SERIALIZABLE or REPEATABLE READ", () => {
  it.each(["serializable", "repeatable read"])("work alike: %s", async (level) => {
    const url = `${setup.database.url}?options=${encodeURIComponent(`-c default_transaction_isolation=${level.replace(" ", "\\ ")}`)}`;
    const events: BusEvent[] = [];
    const topic = defineTopic<string>("strict", { key: (text) => text.slice(0, 1) });
    const buses = [1, 2].map(() =>
      createBus({
        adapter: `memory:${level.replace(" ", "-")}`,
        store: postgres({ url }),
        onEvent: (event) => void events.push(event),
      }),
    );
    onTestFinished(async () => void (await Promise.all(buses.map((bus) => bus.close()))));
    const [bus] = buses;
    assert.ok(bus !== undefined);
    await bus.consume(topic, { group: "g", once: "transaction" }, async (payload, { tx }) => {
      assert.equal((await tx.query("SHOW transaction_isolation")).rows[0]?.transaction_isolation, level);
      await setup.database.addEffect(tx, payload);
    });
    for (const each of buses) each.relay();

    const texts = Array.from({ length: 100 }, (_, i) => `${i % 5} ${i}`);
    await Promise.all(
      texts.map(async (text) => {
        const one = await setup.database.begin();
        await bus.outbox(one.handle as never).publish(topic, text);
        await one.commit();
      }),
    );
    await eventually(async () =>
      assert.deepEqual((await setup.database.effects()).toSorted(), texts.toSorted()),
    );
    await Promise.all(buses.map((each) => each.close()));

    assert.deepEqual(
      events.filter(({ type }) => type === "relayFailed"),
      [],
    );
  });

  it("answer a copy that they cannot see as a failure that may be tried again", async () => {
    const store = await setup.open();
    const key = { scope: "s", key: "k", redrives: 0 };

    const attempt = store.transaction(async (tx) => {
      await tx.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
      await tx.query("SELECT 1 FROM effects");
      await store.transaction((other) => store.inbox.record(other, key, "handled"));
      return store.inbox.record(tx, key, "handled");
    });

    await assert.rejects(attempt, {
      name: "StoreError",
      code: "ERR_STORE",
      retryable: true,
      message: /\(40001\)/u,
    });
    assert.equal(await store.transaction((tx) => store.inbox.record(tx, key, "handled")), "duplicate");
  });
});
