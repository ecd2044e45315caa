/** What `bus.outbox` takes on MariaDB and MySQL, and the connection that handlers get. */
import assert from "node:assert/strict";
import { promisify } from "node:util";
import { type Connection as CallbackConnection, createConnection as createCallbackConnection } from "mysql2";
import type { PoolConnection } from "mysql2/promise";
import { describe, it, onTestFinished } from "vitest";
import { entry } from "../../src/testing/store/world.ts";
import { setupDatabase, txError } from "./mysql-setup.ts";

const setup = setupDatabase();

/** Of `mysql2` itself, with callbacks. */
const callbackClient = (): CallbackConnection => {
  const one = createCallbackConnection(setup.database.url);
  one.on("error", () => undefined);
  onTestFinished(() => one.destroy());
  return one;
};

describe("handles", () => {
  it("refuses what is no open transaction with what to do, and writes nothing", async () => {
    const store = await setup.open();
    const idle = await setup.client();
    const readOnly = await setup.client({}, "START TRANSACTION READ ONLY");
    const ddl = await setup.client({}, "START TRANSACTION", "CREATE TABLE IF NOT EXISTS by_ddl (id int)");
    const closed = await setup.client({}, "START TRANSACTION");
    closed.destroy();

    const refused: readonly (readonly [unknown, RegExp])[] = [
      [setup.database.pool, /a Pool is not a transaction: take a connection/u],
      [setup.database.pool.pool, /a Pool is not a transaction: take a connection/u],
      [idle, /no open transaction on this connection: await its beginTransaction/u],
      [callbackClient(), /no open transaction on this connection/u],
      [readOnly, /READ ONLY transaction/u],
      [ddl, /no open transaction on this connection/u],
      [closed, /is closed: its transaction has ended/u],
    ];
    for (const [handle, message] of refused)
      await assert.rejects(async () => store.outbox.append(handle, [entry("no")]), txError(message));

    assert.deepEqual(await setup.outbox(), []);
  });

  it("takes connections with callbacks, and such as never commit by themselves", async () => {
    const store = await setup.open();
    const callbacks = callbackClient();
    await promisify(callbacks.beginTransaction.bind(callbacks))();
    await store.outbox.append(callbacks, [entry("callbacks", { key: "k" })]);
    await promisify(callbacks.commit.bind(callbacks))();

    const manual = await setup.client({}, "SET autocommit = 0");
    await store.outbox.append(manual, [entry("ghost")]);
    await manual.rollback();
    await store.outbox.append(manual, [entry("manual", { key: "k" })]);
    await manual.commit();

    assert.deepEqual(await setup.outbox(), ["callbacks", "manual"]);
  });

  it("writes into the store's database from a transaction that began in another one", async () => {
    const store = await setup.open();
    const one = await setup.client({}, "CREATE DATABASE IF NOT EXISTS test_elsewhere", "USE test_elsewhere");
    onTestFinished(async () => void (await setup.database.pool.query("DROP DATABASE test_elsewhere")));
    await one.query("CREATE TABLE IF NOT EXISTS postrider_outbox (id int)");
    await one.beginTransaction();
    await store.outbox.append(one, [entry("from elsewhere")]);
    await one.commit();

    assert.deepEqual(await setup.outbox(), ["from elsewhere"]);
  });

  it("says when the transaction was ended before the message was in it", async () => {
    const store = await setup.open();
    const one = await setup.client();
    await one.beginTransaction();
    await store.outbox.append(one, [entry("first")]);

    // Right after the first of its statements.
    let commit: Promise<void> | undefined;
    const query = one.query.bind(one) as (...args: unknown[]) => unknown;
    one.query = ((...args: unknown[]) => {
      const result = query(...args);
      commit ??= one.commit();
      return result;
    }) as never;
    await assert.rejects(store.outbox.append(one, [entry("late")]), txError(/await publish before COMMIT/u));
    await commit;
  });

  it("goes on after a savepoint was rolled back, without what was sent in it", async () => {
    const store = await setup.open();
    const one = await setup.client();
    const rival = await setup.client({}, "SET innodb_lock_wait_timeout = 1", "START TRANSACTION");
    await one.beginTransaction();
    await store.outbox.append(one, [entry("before", { key: "k" })]);
    await one.query("SAVEPOINT s");
    await store.outbox.append(one, [entry("inside", { key: "k" })]);
    await one.query("ROLLBACK TO SAVEPOINT s");
    // The key is still this transaction's.
    await assert.rejects(store.outbox.append(rival, [entry("rival", { key: "k" })]), {
      code: "ERR_STORE",
      retryable: true,
      message: /\(1205\).*ordering key/u,
    });
    await store.outbox.append(one, [entry("after", { key: "k" })]);
    await one.commit();

    assert.deepEqual(await setup.outbox(), ["before", "after"]);
  });

  it("gathers what is sent at once into few statements", async () => {
    const store = await setup.open();
    const one = await setup.client();
    await one.beginTransaction();
    let statements = 0;
    const query = one.query.bind(one) as (...args: unknown[]) => unknown;
    one.query = ((...args: unknown[]) => {
      statements += 1;
      return query(...args);
    }) as never;

    await Promise.all(Array.from({ length: 50 }, (_, i) => store.outbox.append(one, [entry(`${i}`)])));
    await one.commit();

    assert.deepEqual(
      await setup.outbox(),
      Array.from({ length: 50 }, (_, i) => `${i}`),
    );
    assert.ok(statements < 10, `${statements} statements for 50 messages`);
  });

  it("sends for thousands of keys at once, in one order of locks whatever the isolation level", async () => {
    const store = await setup.open();
    const entries = Array.from({ length: 3_000 }, (_, i) => entry(`${i}`, { key: `key ${i}` }));

    await Promise.all(
      ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"].map(async (level, n) => {
        const one = await setup.client({}, `SET SESSION TRANSACTION ISOLATION LEVEL ${level}`);
        await one.beginTransaction();
        await store.outbox.append(one, n % 2 === 0 ? entries : entries.toReversed());
        await one.commit();
      }),
    );

    assert.equal((await setup.outbox()).length, 9_000);
  });
});

describe("the connection that handlers get", () => {
  const insert = "INSERT INTO effects (id) VALUES ('x')";
  const insertOf = "INSERT INTO effects (id) VALUES (?)";
  /** The connection below, with callbacks. */
  const below = (tx: PoolConnection): CallbackConnection => tx.connection as unknown as CallbackConnection;
  const forms: readonly (readonly [string, (tx: PoolConnection) => Promise<unknown>])[] = [
    ["a query", (tx) => tx.query(insert)],
    ["a query with values", (tx) => tx.query(insertOf, ["x"])],
    ["a prepared statement", (tx) => tx.execute(insertOf, ["x"])],
    ["options", (tx) => tx.query({ sql: insertOf, values: ["x"] })],
    [
      "a callback",
      (tx) =>
        new Promise((resolve, reject) => {
          below(tx).execute(insertOf, ["x"], (error: Error | null) =>
            error ? reject(error) : resolve(undefined),
          );
        }),
    ],
    [
      "events",
      (tx) =>
        new Promise((resolve, reject) => {
          below(tx).query(insert).on("error", reject).on("end", resolve);
        }),
    ],
    ["a connection with promises of the one with callbacks", (tx) => below(tx).promise().query(insert)],
  ];

  it.each(forms)("takes %s while the transaction is open, and refuses it after", async (_form, use) => {
    const store = await setup.open();
    let late: PoolConnection | undefined;

    await store.transaction(async (tx) => {
      late = tx;
      await use(tx);
    });

    assert.deepEqual(await setup.database.effects(), ["x"]);
    assert.ok(late !== undefined);
    const ended = late;
    await assert.rejects(async () => use(ended), txError(/the transaction has ended/u));
    assert.deepEqual(await setup.database.effects(), ["x"]);
  });

  it("looks like a connection of mysql2, and is not for its handler to end", async () => {
    const store = await setup.open();

    await store.transaction(async (tx) => {
      assert.equal(tx.constructor.name, "PromisePoolConnection");
      assert.equal(tx.escape("a'b"), "'a\\'b'");
      assert.ok(tx.threadId > 0);
      const ends: readonly (() => unknown)[] = [
        () => tx.beginTransaction(),
        () => tx.commit(),
        () => tx.rollback(),
        () => tx.release(),
        () => tx.end(),
        () => tx.query("  begin"),
        () => tx.execute("START  TRANSACTION READ ONLY"),
        () => tx.prepare(insert),
        () => below(tx).commit(),
      ];
      for (const end of ends)
        await assert.rejects(async () => end(), txError(/the store begins|use execute/u));
      await tx.query(insert);
    });

    assert.deepEqual(await setup.database.effects(), ["x"]);
  });

  const endings: readonly (readonly [string, string, readonly string[]])[] = [
    ["commits by hand", "COMMIT", ["x"]],
    ["rolls back by hand", "ROLLBACK", []],
    ["runs DDL, which commits", "CREATE TABLE IF NOT EXISTS by_ddl (id int)", ["x"]],
  ];
  it.each(endings)("lets nothing more through when its handler %s", async (_what, statement, effects) => {
    const store = await setup.open();

    const attempt = store.transaction(async (tx) => {
      await tx.query(insert);
      await tx.query(statement);
      await tx.query(insert).catch(() => undefined);
      await store.outbox.append(tx, [entry("no")]).catch(() => undefined);
    });

    await assert.rejects(attempt, txError(/ended by the handler itself/u));
    assert.deepEqual(await setup.database.effects(), effects);
    assert.deepEqual(await setup.outbox(), []);
  });

  it("notices an end that its handler did not wait for", async () => {
    const store = await setup.open();

    const attempt = store.transaction(async (tx) => {
      tx.query("CREATE TABLE IF NOT EXISTS by_ddl (id int)").catch(() => undefined);
    });

    await assert.rejects(attempt, txError(/ended by the handler itself/u));
  });

  it("lets nothing more through after a deadlock, which undid all, even if its handler goes on", async () => {
    const store = await setup.open();
    const key = { scope: "s", key: "k", redrives: 0 };
    await setup.database.pool.query("CREATE TABLE locks (id int PRIMARY KEY)");
    await setup.database.pool.query("INSERT INTO locks VALUES (1), (2)");
    const lock = (id: number): string => `SELECT id FROM locks WHERE id = ${id} FOR UPDATE`;
    // It has changed more, so that it is not the victim.
    const many = Array.from({ length: 100 }, (_, i) => `('rival ${i}')`).join(", ");
    const rival = await setup.client(
      {},
      "START TRANSACTION",
      `INSERT INTO effects (id) VALUES ${many}`,
      lock(1),
    );

    const attempt = store.transaction(async (tx) => {
      await store.inbox.record(tx, key, "handled");
      await tx.query(lock(2));
      const waiting = rival.query(lock(2));
      await tx.query(lock(1)).catch(() => undefined);
      await waiting;
      await setup.database.addEffect(tx, "after").catch(() => undefined);
    });

    await assert.rejects(attempt, txError(/rolled the transaction back, and the handler went on/u));
    await rival.rollback();
    assert.deepEqual(await setup.database.effects(), []);
    assert.equal(await store.transaction((tx) => store.inbox.record(tx, key, "handled")), "fresh");
  });
});
