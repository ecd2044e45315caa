/** What `bus.outbox` takes on PostgreSQL, and the client that handlers get. */
import assert from "node:assert/strict";
import { Client, type ClientBase, type PoolClient, Query } from "pg";
import { describe, it, onTestFinished } from "vitest";
import { entry } from "../../src/testing/store/world.ts";
import { openPostgresDatabase } from "../support/postgres-database.ts";
import { setupDatabase, txError } from "./postgres-setup.ts";

const setup = setupDatabase();

describe("handles", () => {
  it("refuses what is no open transaction with what to do, and writes nothing", async () => {
    const store = await setup.open();
    const idle = await setup.client();
    const failed = await setup.client();
    await failed.query("BEGIN");
    await failed.query("SELECT 1 / 0").catch(() => undefined);
    const readOnly = await setup.client();
    await readOnly.query("BEGIN READ ONLY");
    const other = await openPostgresDatabase();
    onTestFinished(() => other.close());
    const bare = await openPostgresDatabase({ bare: true });
    onTestFinished(() => bare.close());
    const [elsewhere, nowhere] = [await setup.client(other.url), await setup.client(bare.url)];
    await Promise.all([elsewhere.query("BEGIN"), nowhere.query("BEGIN")]);

    const refused: readonly (readonly [unknown, RegExp])[] = [
      [setup.database.pool, /a Pool is not a transaction: take a client/u],
      [idle, /no open transaction on this client: await its BEGIN/u],
      [failed, /has failed: roll it back/u],
      [readOnly, /read-only transaction.*must be able to write/u],
      [elsewhere, /on another database than the store's, which is database "test_/u],
      [nowhere, /on another database than the store's/u],
    ];
    for (const [handle, message] of refused)
      await assert.rejects(async () => store.outbox.append(handle, [entry("no")]), txError(message));

    assert.deepEqual(await setup.outbox(), []);
    const { rows } = await other.pool.query("SELECT 1 FROM postrider.outbox");
    assert.deepEqual(rows, []);
  });

  it("asks the server about a client of an older pg, which cannot say whether a transaction is open", async () => {
    const store = await setup.open();
    const one = await setup.client();
    Object.defineProperty(one, "getTransactionStatus", { value: undefined });

    await assert.rejects(
      store.outbox.append(one, [entry("no")]),
      txError(/no open transaction on this client/u),
    );
    await one.query("BEGIN");
    await store.outbox.append(one, [entry("yes")]);
    await one.query("COMMIT");
    await one.query("BEGIN");
    await one.query("SELECT 1 / 0").catch(() => undefined);
    await assert.rejects(store.outbox.append(one, [entry("no")]), txError(/roll back/u));

    assert.deepEqual(await setup.outbox(), ["yes"]);
  });

  it("says when the transaction was ended before the message was in it", async () => {
    const store = await setup.open();
    const one = await setup.client();
    await one.query("BEGIN");
    await store.outbox.append(one, [entry("first")]);

    const commit = one.query("COMMIT");
    await assert.rejects(store.outbox.append(one, [entry("late")]), txError(/await publish before COMMIT/u));
    await commit;
  });

  it("goes on after a savepoint was rolled back, without what was sent in it", async () => {
    const store = await setup.open();
    const one = await setup.client();
    await one.query("BEGIN");
    await store.outbox.append(one, [entry("before", { key: "k" })]);
    await one.query("SAVEPOINT s");
    await store.outbox.append(one, [entry("inside", { key: "k" })]);
    await one.query("ROLLBACK TO s");
    await store.outbox.append(one, [entry("after", { key: "k" })]);
    await one.query("COMMIT");

    assert.deepEqual(await setup.outbox(), ["before", "after"]);
  });

  it("gives one client one statement at a time, however many messages are sent at once", async () => {
    const store = await setup.open();
    const one = await setup.client();
    await one.query("BEGIN");
    let statements = 0;
    const submit = one.query.bind(one) as (...args: unknown[]) => unknown;
    one.query = ((...args: unknown[]) => {
      statements += 1;
      assert.equal((one as unknown as { readyForQuery: boolean }).readyForQuery, true);
      return submit(...args);
    }) as never;

    await Promise.all(Array.from({ length: 50 }, (_, i) => store.outbox.append(one, [entry(`${i}`)])));
    one.query = submit as never;
    await one.query("COMMIT");

    assert.deepEqual(
      await setup.outbox(),
      Array.from({ length: 50 }, (_, i) => `${i}`),
    );
    assert.ok(statements < 10, `${statements} statements for 50 messages`);
  });

  it("prepares its statement on a direct connection, and never behind a pooler", async () => {
    const store = await setup.open();
    const prepared = async (one: ClientBase): Promise<number> => {
      const { rows } = await one.query(
        "SELECT name FROM pg_prepared_statements WHERE name LIKE 'postrider%'",
      );
      return rows.length;
    };
    const [direct, pooled] = [await setup.client(), await setup.client()];
    // What a pooler tells its clients is no process of the server.
    Object.assign(pooled, { processID: 4_711_000 });

    for (const one of [direct, pooled]) {
      await one.query("BEGIN");
      await store.outbox.append(one, [entry("a")]);
      await store.outbox.append(one, [entry("b")]);
    }

    assert.deepEqual([await prepared(direct), await prepared(pooled)], [1, 0]);
  });

  it("sends for thousands of keys at once, but never uses up the locks of the server", async () => {
    const store = await setup.open();
    const one = await setup.client();
    const { rows } = await one.query<{ locks: number }>(
      "SELECT current_setting('max_locks_per_transaction')::int * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) AS locks",
    );
    const room = (rows[0]?.locks ?? 0) / 2;
    const entries = Array.from({ length: room + 1 }, (_, i) => entry(`${i}`, { key: `key ${i}` }));
    await one.query("BEGIN");

    await store.outbox.append(one, entries.slice(1));
    await assert.rejects(store.outbox.append(one, entries), {
      name: "StoreError",
      retryable: false,
      message: /max_locks_per_transaction/u,
    });
    await one.query("COMMIT");

    assert.equal((await setup.outbox()).length, room);
  });
});

describe("the client that handlers get", () => {
  const forms: readonly (readonly [string, (tx: PoolClient) => Promise<unknown>])[] = [
    ["text", (tx) => tx.query("INSERT INTO effects (id) VALUES ('x')")],
    ["text and values", (tx) => tx.query("INSERT INTO effects (id) VALUES ($1)", ["x"])],
    ["a config", (tx) => tx.query({ text: "INSERT INTO effects (id) VALUES ($1)", values: ["x"] })],
    [
      "a callback",
      (tx) =>
        new Promise((resolve, reject) => {
          tx.query("INSERT INTO effects (id) VALUES ($1)", ["x"], (error: Error | null) =>
            error ? reject(error) : resolve(undefined),
          );
        }),
    ],
    [
      "a callback without values",
      (tx) =>
        new Promise((resolve, reject) => {
          tx.query("INSERT INTO effects (id) VALUES ('x')", (error: Error | null) =>
            error ? reject(error) : resolve(undefined),
          );
        }),
    ],
    [
      "a submittable",
      (tx) =>
        new Promise((resolve, reject) => {
          const query = tx.query(new Query("INSERT INTO effects (id) VALUES ('x')"));
          query.on("error", reject);
          query.on("end", resolve);
        }),
    ],
  ];

  it.each(forms)("takes %s while the transaction is open, and refuses it after", async (_form, use) => {
    const store = await setup.open();
    let late: PoolClient | undefined;

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

  it("looks like a client of pg, and is not for its handler to release", async () => {
    const store = await setup.open();

    await store.transaction(async (tx) => {
      assert.ok(tx instanceof Client);
      assert.equal(tx.constructor.name, "Client");
      assert.equal(tx.getTransactionStatus(), "T");
      assert.equal(tx.escapeIdentifier('a"b'), '"a""b"');
      assert.throws(() => tx.release(), txError(/is the store's/u));
      await assert.rejects(async () => tx.end(), txError(/is the store's/u));
    });
  });

  it("is told when it has ended the transaction by itself", async () => {
    const store = await setup.open();

    const attempt = store.transaction(async (tx) => {
      await setup.database.addEffect(tx, "committed by hand");
      await tx.query("COMMIT");
    });

    await assert.rejects(attempt, txError(/ended by the handler itself/u));
  });

  it("does not hide a statement that failed without being awaited", async () => {
    const store = await setup.open();

    const attempt = store.transaction(async (tx) => {
      await setup.database.addEffect(tx, "effect");
      tx.query("SELECT 1 / 0").catch(() => undefined);
    });

    await assert.rejects(attempt, txError(/nothing was committed/u));
    assert.deepEqual(await setup.database.effects(), []);
  });
});
