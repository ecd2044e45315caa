/** Transactions on MariaDB and MySQL: their end on the server, pools of the user's, isolation levels, locks. */
import assert from "node:assert/strict";
import { type Connection, createPool } from "mysql2/promise";
import { type BusEvent, createBus, defineTopic } from "postrider";
import { mysql } from "postrider/mysql";
import { eventually } from "postrider/testing";
import { describe, it, onTestFinished } from "vitest";
import { entry } from "../../src/testing/store/world.ts";
import { startFaultProxy } from "../support/fault-proxy.ts";
import { setupDatabase } from "./mysql-setup.ts";

const setup = setupDatabase();

const keyOf = (key: string): { scope: string; key: string; redrives: number } => ({
  scope: "s",
  key,
  redrives: 0,
});

describe("transactions", () => {
  it("end on the server when they are abandoned, whatever they were doing", async () => {
    const store = await setup.open();
    const abort = new AbortController();
    const sleeping = async (): Promise<number> => {
      const [rows] = await setup.database.pool.query(
        "SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'",
      );
      return (rows as unknown[]).length;
    };
    const told = Promise.withResolvers<unknown>();

    const attempt = store.transaction(async (tx) => {
      await store.inbox.record(tx, keyOf("k"), "handled");
      await tx.query("SELECT SLEEP(3600)").catch(told.resolve);
    }, abort.signal);
    attempt.catch(() => undefined);
    await eventually(async () => assert.equal(await sleeping(), 1));
    abort.abort(new Error("time is up"));

    await assert.rejects(attempt, /time is up/u);
    assert.match(String(await told.promise), /connection was closed/u);
    await eventually(async () => assert.equal(await sleeping(), 0));
    await eventually(async () =>
      assert.equal(await store.transaction((tx) => store.inbox.record(tx, keyOf("k"), "handled")), "fresh"),
    );
  });

  it("tell what the database refuses for good from what may work next time", async () => {
    const store = await setup.open();
    const own = store.transaction((tx) =>
      store.inbox.record(tx, keyOf("k".repeat(70_000)), "x".repeat(30) as never),
    );
    await assert.rejects(own, {
      name: "StoreError",
      code: "ERR_STORE",
      retryable: false,
      message: /\(1406\)/u,
    });

    const holder = await setup.client({}, "START TRANSACTION");
    await store.outbox.append(holder, [entry("held", { key: "k" })]);
    const waiting = store.transaction(async (tx) => {
      await tx.query("SET innodb_lock_wait_timeout = 1");
      await store.outbox.append(tx, [entry("waits", { key: "k" })]);
    });
    await assert.rejects(waiting, {
      name: "StoreError",
      code: "ERR_STORE",
      retryable: true,
      message: /\(1205\)/u,
    });
  });

  it.each(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])(
    "record different messages at once, of which some are copies, without one deadlock: %s",
    async (level) => {
      const pool = createPool({ uri: setup.database.url, connectionLimit: 30 });
      onTestFinished(() => pool.end());
      pool.on("connection", (connection) => {
        // Behind the promises there is a connection with callbacks.
        (connection as unknown as { query(sql: string): void }).query(
          `SET SESSION TRANSACTION ISOLATION LEVEL ${level}`,
        );
      });
      const store = await setup.open({ pool });

      for (let round = 0; round < 5; round += 1) {
        const answers = await Promise.all(
          Array.from({ length: 60 }, (_, n) =>
            store.transaction(async (tx) => {
              const answer = await store.inbox.record(tx, keyOf(`${round} ${n % 20}`), "handled");
              await setup.database.addEffect(tx, answer);
              return answer;
            }),
          ),
        );
        const fresh = answers.filter((answer) => answer === "fresh").length;
        assert.ok(fresh <= 20 && fresh > 0, answers.join());
      }
    },
  );

  it("do not make a copy wait for the lock of another message's row", async () => {
    const store = await setup.open();
    for (const key of ["a", "c"]) await store.transaction((tx) => store.inbox.record(tx, keyOf(key), "dead"));
    const holder = await setup.client(
      {},
      "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
      "START TRANSACTION",
      // All rows, and all gaps between them.
      "SELECT * FROM postrider_inbox FOR UPDATE",
    );

    const answers = [
      await store.transaction((tx) => store.inbox.record(tx, keyOf("a"), "handled")),
      await store.transaction((tx) => store.inbox.record(tx, keyOf("b"), "handled")),
      ...(await store.inbox.claim(
        ["a", "b", "c"].map((key) => ({ scope: "s", key, redrives: 1, token: "t" })),
        60_000,
      )),
    ];
    const purged = await store.inbox.purge(0, 10);
    await holder.rollback();

    assert.deepEqual(answers, ["busy", "busy", "busy", "busy", "busy"]);
    assert.equal(purged, 0);
    assert.equal(await store.inbox.purge(0, 10), 2);
  });
});

describe("a pool of the user's", () => {
  it("of one connection makes everything wait its turn, and nothing for ever", async () => {
    const pool = createPool({ uri: setup.database.url, connectionLimit: 1 });
    onTestFinished(() => pool.end());
    const topic = defineTopic<string>("narrow");
    const bus = createBus({ adapter: "memory:", store: mysql({ pool }), onEvent: () => undefined });
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
    const pool = createPool({ uri: setup.database.url });
    const store = await setup.open({ pool });
    await store.outbox.backlog();
    assert.equal(store.health().connected, true);
    const one = await pool.getConnection();
    const { threadId } = one;
    one.release();

    await setup.database.pool.query(`KILL ${threadId}`);
    await eventually(async () => void (await store.outbox.backlog()));
    assert.equal(store.health().connected, true);
    await store.close();

    await pool.query("SELECT 1");
    await pool.end();
  });

  it("leaves nothing locked while an answer is on its way, which may take for ever", async () => {
    const { hostname: host, port } = new URL(setup.database.url);
    const proxy = await startFaultProxy({ target: { host, port: Number(port) } });
    onTestFinished(() => proxy.close());
    const uri = Object.assign(new URL(setup.database.url), { port: `${proxy.port}` }).href;
    const sender = await setup.open();
    const claim = { scope: "s", key: "k", redrives: 0, token: "t" };
    /** What is asked may be one of several statements: each is held in turn. */
    for (let answers = 0; answers < 6; answers += 1) {
      const pool = createPool({ uri, connectionLimit: 1 });
      const store = await setup.open({ pool });
      const connection = await pool.getConnection();
      const query = connection.connection.query.bind(connection.connection) as (
        ...args: unknown[]
      ) => unknown;
      let left = answers;
      const held = Promise.withResolvers<() => Promise<void>>();
      connection.connection.query = ((...args: unknown[]) => {
        if (left === 0) held.resolve(proxy.holdReplies());
        left -= 1;
        return query(...args);
      }) as never;
      connection.release();
      const stuck = Promise.allSettled([
        store.outbox.fetch({ above: 0n, parkedTopics: [], limit: 1 }),
        store.outbox.acquire("stuck", 1),
        store.inbox.claim([claim], 1),
      ]);
      const release = await held.promise;

      const open = await setup.database.begin();
      await open.commit();
      const one = await setup.client({}, "SET innodb_lock_wait_timeout = 1", "START TRANSACTION");
      await sender.outbox.append(one, [entry(`${answers}`, { key: "k" })]);
      await one.commit();

      await release();
      await stuck;
      await store.close();
      await pool.end();
    }
  });
});

describe("sessions that begin as SERIALIZABLE or READ COMMITTED", () => {
  it.each(["SERIALIZABLE", "READ-COMMITTED"])(
    "work like those of the server's default: %s",
    async (level) => {
      const { pool } = setup.database;
      const [[before]] = (await pool.query("SELECT @@GLOBAL.tx_isolation AS level")) as unknown as [
        [{ readonly level: string }],
      ];
      onTestFinished(async () => void (await pool.query("SET GLOBAL tx_isolation = ?", [before.level])));
      await pool.query("SET GLOBAL tx_isolation = ?", [level]);
      const events: BusEvent[] = [];
      const topic = defineTopic<string>("strict", { key: (text) => text.slice(0, 1) });
      const buses = [1, 2].map(() =>
        createBus({
          adapter: `memory:${level}`,
          store: mysql({ url: setup.database.url }),
          onEvent: (event) => void events.push(event),
        }),
      );
      onTestFinished(async () => void (await Promise.all(buses.map((bus) => bus.close()))));
      const [bus] = buses;
      assert.ok(bus !== undefined);
      await bus.consume(topic, { group: "g", once: "transaction" }, async (payload, { tx }) => {
        const [rows] = await (tx as Connection).query("SELECT @@tx_isolation AS level");
        assert.deepEqual(rows, [{ level }]);
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

      assert.deepEqual(
        events.filter(({ type }) => type === "relayFailed"),
        [],
      );
    },
  );
});
