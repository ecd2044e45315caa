/** Transactions and handles of the SQLite store: what a handler, or the user's own code, can do wrong with them. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { type Bus, type BusEvent, createBus, defineTopic } from "postrider";
import { sqlite, sqliteStore } from "postrider/sqlite";
import { eventually } from "postrider/testing";
import { afterEach, beforeEach, describe, it } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import { insist } from "../support/sqlite-database.ts";

const topic = defineTopic<string>("notes");
let folder: string;
let path: string;
let bus: Bus<DatabaseSync, DatabaseSync>;
let own: DatabaseSync;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "postrider-sqlite-"));
  path = join(folder, "app.db");
  own = new DatabaseSync(path);
  own.exec("PRAGMA journal_mode = WAL; CREATE TABLE effects (id TEXT NOT NULL) STRICT");
  bus = createBus({ adapter: sqlite({ path }) });
  await bus.connect();
});

afterEach(async () => {
  await bus.close({ timeout: 0 });
  own.close();
  await rm(folder, { recursive: true });
});

const add = (db: DatabaseSync, id: string): unknown =>
  db.prepare("INSERT INTO effects (id) VALUES (?)").run(id);
const effects = (): string[] =>
  own
    .prepare("SELECT id FROM effects")
    .all()
    .map((row) => String(row["id"]));
const inOutbox = (): number => Number(own.prepare("SELECT count(*) AS n FROM postrider_outbox").get()?.["n"]);
/** Lets everything that is ready run. */
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

describe("sqlite store: transactions", () => {
  it("commits what resolves, and rolls back what rejects with that very error", async () => {
    const failure = new Error("mine");
    assert.equal(await bus.transaction(async (tx) => (add(tx, "kept"), 7)), 7);
    await assert.rejects(
      bus.transaction(async (tx) => {
        add(tx, "gone");
        throw failure;
      }),
      (error) => error === failure,
    );
    assert.deepEqual(effects(), ["kept"]);
  });

  it("gives nothing that is used after the end of its transaction any effect", async () => {
    let late: DatabaseSync | undefined;
    let statement: StatementSync | undefined;
    await bus.transaction(async (tx) => {
      late = tx;
      statement = tx.prepare("INSERT INTO effects (id) VALUES (?)");
    });
    const useLate = (): void => {
      assert.throws(() => add(late as DatabaseSync, "late"), { code: "ERR_INVALID_STATE" });
      assert.throws(() => statement?.run("late"), { code: "ERR_INVALID_STATE" });
    };
    useLate();
    await bus.transaction(async (tx) => {
      add(tx, "second");
      useLate();
    });
    await assert.rejects(bus.outbox(late as DatabaseSync).publish(topic, "late"), { code: "ERR_TX" });
    assert.deepEqual(effects(), ["second"]);
  });

  it("abandons the transaction of an attempt that timed out, and what the handler still does", async () => {
    const threw: unknown[] = [];
    const options = { group: "g", once: "transaction", timeout: 50, retry: { maxAttempts: 1 } } as const;
    await bus.consume(topic, options, async (id, { tx, signal }) => {
      add(tx, `${id} before`);
      const commit = (): void => {
        try {
          add(tx, `${id} after`);
          tx.exec("COMMIT");
        } catch (error) {
          threw.push(error);
        }
      };
      // At once, as part of the abort itself, and later.
      signal.addEventListener("abort", commit);
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      commit();
    });
    await bus.publish(topic, "one");
    await eventually(() => assert.equal(threw.length, 2));
    await eventually(async () => {
      const letters = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
      assert.deepEqual(
        letters.map(({ reason }) => reason),
        ["exhausted"],
      );
    });
    assert.deepEqual(effects(), []);
  });

  it("runs transactions one after another, and lets the broker write between them", async () => {
    const order: string[] = [];
    const long = bus.transaction(async (tx) => {
      order.push("first begins");
      await turn();
      add(tx, "first");
      order.push("first ends");
    });
    const next = bus.transaction(async (tx) => {
      order.push("second begins");
      add(tx, "second");
    });
    const published = bus.publish(topic, "while it is open").then(() => order.push("published"));
    await Promise.all([long, next, published]);
    assert.equal(order.indexOf("second begins"), order.indexOf("first ends") + 1);
    assert.ok(order.indexOf("published") > order.indexOf("first ends"));
    assert.deepEqual(effects(), ["first", "second"]);
  });

  it("refuses a transaction inside a transaction, which would wait for itself", async () => {
    await bus.transaction(async (tx) => {
      await assert.rejects(
        bus.transaction(async () => undefined),
        { code: "ERR_TX" },
      );
      add(tx, "outer");
    });
    await bus.transaction(async (tx) => add(tx, "next"));
    assert.deepEqual(effects(), ["outer", "next"]);
  });

  it("says so when the function ends the transaction itself", async () => {
    for (const statement of ["COMMIT", "ROLLBACK"])
      await assert.rejects(
        bus.transaction(async (tx) => tx.exec(statement)),
        { code: "ERR_TX" },
      );
    await assert.rejects(
      bus.transaction(async (tx) => tx.close()),
      { code: "ERR_TX" },
    );
    await bus.transaction(async (tx) => add(tx, "fine"));
    assert.deepEqual(effects(), ["fine"]);
  });

  it("fails a commit that violates a constraint, and does not call that temporary", async () => {
    own.exec("CREATE TABLE parents (id INTEGER PRIMARY KEY) STRICT");
    own.exec(
      "CREATE TABLE children (id INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED) STRICT",
    );
    await assert.rejects(
      bus.transaction(async (tx) => tx.exec("INSERT INTO children (id) VALUES (1)")),
      {
        code: "ERR_STORE",
        retryable: false,
      },
    );
    assert.equal(own.prepare("SELECT count(*) AS n FROM children").get()?.["n"], 0);
  });

  it("ends with an explanation when a publish is awaited inside the transaction that holds the file", async () => {
    // Time runs fifty times as fast, for the ten and thirty seconds that are waited for.
    const fast = {
      ...nodeRuntime,
      monotonic: () => nodeRuntime.monotonic() * 50,
      setTimer: (ms: number, fn: () => void, options?: { readonly unref?: boolean }) =>
        nodeRuntime.setTimer(ms / 50, fn, options),
      sleep: (ms: number, signal?: AbortSignal) => nodeRuntime.sleep(ms / 50, signal),
    };
    const warnings: string[] = [];
    await using hasty = createBus({
      adapter: sqlite({ path }),
      runtime: fast,
      onEvent: (event) => event.type === "warning" && warnings.push(event.code),
    });
    const failure: unknown = await hasty
      .transaction(async (tx) => {
        add(tx, "never");
        await hasty.publish(topic, "waits for the end of its own transaction");
      })
      .then(
        () => assert.fail("it went through"),
        (error: unknown) => error,
      );
    assert.ok(failure instanceof Error);
    assert.match(failure.message, /ctx\.publish/u);
    assert.deepEqual(warnings, ["SQLITE_LONG_TRANSACTION"]);
    assert.deepEqual(effects(), []);
    await hasty.publish(topic, "afterwards");
  });

  it("gives up an open transaction when the bus closes", async () => {
    let tx: DatabaseSync | undefined;
    const forEver = bus.transaction(async (given) => {
      add((tx = given), "never");
      await new Promise(() => undefined);
    });
    await eventually(() => assert.ok(tx !== undefined));
    const outcome = assert.rejects(forEver, { code: "ERR_CLOSED" });
    await bus.close({ timeout: 0 });
    await outcome;
    assert.throws(() => add(tx as DatabaseSync, "late"));
    assert.deepEqual(effects(), []);
  });
});

describe("sqlite store: a file of its own", () => {
  it("lets a handler publish past its transaction, and the next handler begin its own", async () => {
    const events: BusEvent[] = [];
    await using apart = createBus({
      adapter: sqlite({ path: join(folder, "broker.db") }),
      store: sqliteStore({ path }),
      onEvent: (event) => void events.push(event),
    });
    const followUps = defineTopic<string>("follow-ups");
    const handled: string[] = [];
    const options = { group: "g", once: "transaction" } as const;
    await apart.consume(followUps, options, async (note) => void handled.push(note));
    await apart.consume(topic, options, async (note, { tx }) => {
      add(tx, note);
      await apart.publish(followUps, `after ${note}`);
      // It is handed over while this transaction is still open.
      for (let i = 0; i < 10; i += 1) await turn();
    });
    await apart.publish(topic, "one");
    await eventually(() => assert.deepEqual(handled, ["after one"]));
    assert.deepEqual(effects(), ["one"]);
    assert.deepEqual(
      events.filter(({ type }) => type === "storeFailed"),
      [],
    );
  });
});

describe("sqlite store: the user's own handle", () => {
  it("takes an open transaction of a handle on the same file, also under another name of it", async () => {
    own.exec("BEGIN IMMEDIATE");
    add(own, "with");
    await bus.outbox(own).publish(topic, "one");
    own.exec("COMMIT");
    assert.equal(inOutbox(), 1);

    const roundabout = new DatabaseSync(join(folder, "..", folder.split("/").at(-1) ?? "", "app.db"));
    roundabout.exec("BEGIN");
    await bus.outbox(roundabout).publishAll(topic, ["two", "three"]);
    roundabout.exec("ROLLBACK");
    roundabout.close();
    assert.equal(inOutbox(), 1);
  });

  it("refuses what is no open transaction of this file, before anything is written", async () => {
    const elsewhere = new DatabaseSync(join(folder, "other.db"));
    elsewhere.exec("BEGIN IMMEDIATE");
    const inMemory = new DatabaseSync(":memory:");
    inMemory.exec("BEGIN");
    inMemory.prepare("ATTACH ? AS app").run(path);
    const closed = new DatabaseSync(path);
    closed.close();
    const wrong: readonly [unknown, RegExp][] = [
      [own, /no open transaction/u],
      [elsewhere, /other\.db; the store is in .*app\.db/u],
      [inMemory, /in memory/u],
      [closed, /closed/u],
      [{ exec: () => undefined, prepare: () => undefined }, /takes a DatabaseSync/u],
      [undefined, /takes a DatabaseSync/u],
    ];
    for (const [handle, message] of wrong)
      await assert.rejects(bus.outbox(handle as DatabaseSync).publish(topic, "x"), {
        code: "ERR_TX",
        message,
      });
    elsewhere.close();
    inMemory.close();
    assert.equal(inOutbox(), 0);
    own.exec("BEGIN");
    own.exec("ROLLBACK");
  });

  it("waits for the lock when a deferred transaction makes its first write", async () => {
    const holder = new DatabaseSync(path);
    holder.exec("BEGIN IMMEDIATE");
    own.exec("BEGIN");
    const published = bus.outbox(own).publish(topic, "one");
    await turn();
    holder.exec("ROLLBACK");
    holder.close();
    await published;
    own.exec("COMMIT");
    assert.equal(inOutbox(), 1);
  });

  it("says that a transaction which has read what was changed since cannot write any more", async () => {
    own.exec("BEGIN");
    effects();
    const other = new DatabaseSync(path);
    add(other, "meanwhile");
    other.close();
    await assert.rejects(bus.outbox(own).publish(topic, "one"), {
      code: "ERR_STORE",
      message: /BEGIN IMMEDIATE/u,
    });
    own.exec("ROLLBACK");
  });

  it("adds all entries or none, and leaves the caller's transaction as it was", async () => {
    own.exec(
      "CREATE TRIGGER refuse BEFORE INSERT ON postrider_outbox WHEN NEW.body = CAST('\"bad\"' AS BLOB) BEGIN SELECT RAISE(ABORT, 'refused'); END",
    );
    own.exec("BEGIN IMMEDIATE");
    add(own, "mine");
    await assert.rejects(bus.outbox(own).publishAll(topic, ["good", "bad"]), { code: "ERR_STORE" });
    own.exec("COMMIT");
    assert.deepEqual(effects(), ["mine"]);
    assert.equal(inOutbox(), 0);
  });

  it("survives a transaction of the user's own that is open across awaits, in this very process", async () => {
    const received: string[] = [];
    await bus.consume(topic, { group: "g", once: false }, (note) => void received.push(note));
    await insist(() => own.exec("BEGIN IMMEDIATE"));
    const published = bus.publish(topic, "one");
    const transaction = bus.transaction(async (tx) => add(tx, "later"));
    for (let i = 0; i < 20; i += 1) await turn();
    add(own, "earlier");
    own.exec("COMMIT");
    await Promise.all([published, transaction]);
    await eventually(() => assert.deepEqual(received, ["one"]));
    assert.deepEqual(effects(), ["earlier", "later"]);
  });
});

describe("sqlite store: inbox and relay", () => {
  it("knows what was handled, dead-lettered and redriven, and who is at it", async () => {
    const store = sqliteStore({ path });
    await store.connect({ runtime: nodeRuntime, emit: () => undefined });
    const key = { scope: "t--g", key: "1", redrives: 0 };
    const [a, b] = [
      { ...key, token: "a" },
      { ...key, token: "b" },
    ];
    const record = (redrives: number, outcome: "handled" | "dead"): Promise<string> =>
      store.transaction((tx) => store.inbox.record(tx, { ...key, redrives }, outcome));

    assert.deepEqual(await store.inbox.claim([a, b], 60_000), ["fresh", "busy"]);
    assert.deepEqual(await store.inbox.claim([a], 60_000), ["fresh"], "its own claim, asked for again");
    assert.equal(await record(0, "handled"), "busy");
    assert.deepEqual(await store.inbox.extend([a, b], 60_000), [true, false]);
    await store.inbox.complete([{ ...b, outcome: "handled" }]);
    await store.inbox.release([a]);
    assert.equal(await record(0, "dead"), "fresh");
    assert.equal(await record(0, "handled"), "duplicate");

    const redriven = { ...key, redrives: 1, token: "c" };
    assert.deepEqual(await store.inbox.claim([redriven], 60_000), ["fresh"]);
    await store.inbox.release([redriven]);
    assert.equal(await record(0, "handled"), "duplicate", "a release forgot the dead letter");
    assert.equal(await record(1, "handled"), "fresh");
    assert.equal(await record(2, "handled"), "duplicate", "handled is the end");

    assert.deepEqual(await store.inbox.claim([{ ...key, key: "2", token: "d" }], -1), ["fresh"]);
    assert.deepEqual(
      await store.inbox.claim([{ ...key, key: "2", token: "e" }], 60_000),
      ["fresh"],
      "ran out",
    );
    assert.equal(await store.inbox.purge(-1_000, 100), 1, "the claim that holds stays");
    await store.close();
  });

  it("gives the relay's lease to one at a time, and fences the one before", async () => {
    const store = sqliteStore({ path });
    await store.connect({ runtime: nodeRuntime, emit: () => undefined });
    const { outbox } = store;
    assert.deepEqual(await outbox.acquire("a", 60_000), { epoch: 1n, clean: true, order: "key" });
    assert.equal(await outbox.acquire("b", 60_000), undefined);
    assert.equal(await outbox.renew("a", 1n, -1), "key");
    assert.equal(await outbox.renew("a", 1n, 60_000), undefined, "it had run out");
    assert.deepEqual(await outbox.acquire("b", 60_000), { epoch: 2n, clean: false, order: "key" });

    await bus.transaction((_tx, out) => out.publishAll(topic, ["one", "two", "three"]));
    const { rows } = await outbox.fetch({ above: 0n, parkedTopics: [], limit: 2 });
    assert.deepEqual(
      rows.map(({ seq }) => seq),
      [1n, 2n],
    );
    assert.deepEqual((await outbox.fetch({ above: 0n, parkedTopics: [topic.name], limit: 2 })).rows, []);
    const [first, second] = rows;
    assert.ok(first !== undefined && second !== undefined);
    assert.equal((await outbox.remove([1n], 1n)).fenced, true);
    assert.equal((await outbox.park(first, 1n, "no")).fenced, true);
    assert.equal((await outbox.backlog()).depth, 3);
    assert.equal((await outbox.remove([1n], 2n)).fenced, false);
    assert.equal((await outbox.park(second, 2n, "too large")).fenced, false);
    const { depth, parked, relayed } = await outbox.backlog();
    assert.deepEqual({ depth, parked, relayed }, { depth: 1, parked: 1, relayed: true });
    await outbox.surrender("b", 2n);
    assert.deepEqual(await outbox.acquire("c", 60_000), { epoch: 3n, clean: true, order: "key" });

    // A number that was given and removed is never given again: the relay looks only above what it has seen.
    await outbox.remove([3n], 3n);
    await bus.transaction((_tx, out) => out.publish(topic, "four"));
    assert.deepEqual(
      (await outbox.fetch({ above: 3n, parkedTopics: [], limit: 10 })).rows.map(({ seq }) => seq),
      [4n],
    );
    await store.close();
  });

  it("migrates on request, before anything else was called", async () => {
    await using other = createBus({
      adapter: "memory:",
      store: sqliteStore({ path: join(folder, "new.db") }),
    });
    const { from, to } = await other.migrate();
    assert.equal(from, to);
  });
});
