/** The embedded broker in one process: its file, its rows, and clocks that jump. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type BusEvent, createBus, defineTopic } from "postrider";
import { sqlite, sqliteStore } from "postrider/sqlite";
import { createFakeRuntime, eventually } from "postrider/testing";
import { afterEach, beforeEach, describe, it } from "vitest";
import { Watch } from "../../adapters/sqlite/watch.ts";
import { nodeRuntime } from "../../src/clock.ts";
import { insist } from "../support/sqlite-database.ts";
import { nodeFlags } from "../support/sqlite-processes.ts";

const topic = defineTopic<string>("notes");
let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "postrider-sqlite-"));
  path = join(folder, "bus.db");
});

afterEach(() => rm(folder, { recursive: true }));

describe("sqlite: the file", () => {
  it("refuses a path that cannot be meant, with what to write instead", () => {
    const wrong: readonly [unknown, RegExp][] = [
      [{}, /path must be a string/u],
      [{ path: "" }, /path must be a string/u],
      [{ path: ":memory:" }, /in memory/u],
      [{ path: "file::memory:?cache=shared" }, /in memory/u],
      [{ path: "file:/tmp/x.db?mode=ro" }, /parameters/u],
      [{ path: "//app.db" }, /two slashes/u],
      [{ paht: "x" }, /did you mean "path"/u],
    ];
    for (const [options, message] of wrong) {
      assert.throws(() => sqlite(options as never), { code: "ERR_CONFIG", message });
      assert.throws(() => sqliteStore(options as never), { code: "ERR_CONFIG", message });
    }
    assert.throws(() => createBus({ adapter: "sqlite://app.db" }), { code: "ERR_CONFIG" });
    createBus({ adapter: `sqlite://${path}` });
    assert.ok(!existsSync(path), "nothing is opened before it is used");
  });

  it("makes the folder, and lives beside tables of the user's in a database of theirs", async () => {
    path = join(folder, "deep", "er", "app.db");
    mkdirSync(join(folder, "deep", "er"), { recursive: true });
    const own = new DatabaseSync(path);
    own.exec("CREATE TABLE messages (id TEXT); PRAGMA user_version = 42");
    await using bus = createBus({ adapter: sqlite({ path }) });
    await bus.publish(topic, "one");
    assert.equal(own.prepare("PRAGMA user_version").get()?.["user_version"], 42);
    assert.equal(own.prepare("PRAGMA journal_mode").get()?.["journal_mode"], "wal");
    own.close();
    const nested = join(folder, "a", "b", "c.db");
    await using other = createBus({ adapter: sqlite({ path: nested }) });
    await other.connect();
    assert.ok(statSync(nested).isFile());
  });

  it("says what is wrong with a file it cannot use, and does not try for long", async () => {
    const cases: readonly [string, (file: string) => void, RegExp][] = [
      [
        "text",
        (file) => writeFileSync(file, "this is not a database, but it is long enough to be read"),
        /not a SQLite/u,
      ],
      ["folder", (file) => mkdirSync(file), /cannot be opened/u],
      ["under-a-file", (file) => writeFileSync(join(file, ".."), ""), /ENOTDIR|EEXIST/u],
      [
        "newer",
        (file) => {
          const db = new DatabaseSync(file);
          db.exec("CREATE TABLE postrider_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL)");
          db.exec("INSERT INTO postrider_schema VALUES ('broker', 99), ('store', 99)");
          db.close();
        },
        /written by a newer one/u,
      ],
      [
        "taken",
        (file) => {
          const db = new DatabaseSync(file);
          db.exec("CREATE TABLE postrider_topics (x); CREATE TABLE postrider_outbox (x)");
          db.close();
        },
        /already exists/u,
      ],
    ];
    for (const [name, prepare, message] of cases) {
      const file = name === "under-a-file" ? join(folder, "plain", "bus.db") : join(folder, `${name}.db`);
      prepare(file);
      const bus = createBus({ adapter: sqlite({ path: file }) });
      await assert.rejects(bus.connect(), { retryable: false, message }, name);
      await assert.rejects(bus.publish(topic, "x", { timeout: "5s" }), { retryable: false }, name);
      await bus.close();
      const beside = createBus({ adapter: "memory:", store: sqliteStore({ path: file }) });
      await assert.rejects(beside.connect(), { retryable: false, message }, `${name}, store`);
      await beside.close();
    }
  });

  it("says that it may not write to a file or a folder", async () => {
    const inside = join(folder, "inside");
    mkdirSync(inside);
    const file = join(inside, "bus.db");
    new DatabaseSync(file).exec("PRAGMA journal_mode = WAL; CREATE TABLE x (y)");
    chmodSync(folder, 0o755);
    chmodSync(file, 0o444);
    chmodSync(inside, 0o555);
    const source = `
      import { createBus } from ${JSON.stringify(import.meta.resolve("../../src/index.ts"))};
      import { sqlite } from ${JSON.stringify(import.meta.resolve("../../adapters/sqlite/index.ts"))};
      for (const path of process.argv.slice(1)) {
        const bus = createBus({ adapter: sqlite({ path }) });
        const error = await bus.connect().then(() => undefined, (reason) => reason);
        console.log(error?.code, error?.retryable, error?.message);
        await bus.close();
      }`;
    // Root may write everywhere; then somebody else has to try.
    const root = process.getuid?.() === 0;
    const files = [file, join(inside, "new.db"), join(inside, "sub", "new.db")];
    const { stdout, stderr } = spawnSync(
      process.execPath,
      [...nodeFlags, "--input-type=module", "-e", source, ...files],
      { encoding: "utf8", ...(root ? { uid: 65_534, gid: 65_534 } : {}) },
    );
    chmodSync(inside, 0o755);
    const lines = stdout.trim().split("\n");
    assert.equal(lines.length, 3, stderr);
    for (const line of lines)
      assert.match(line, /^ERR_\w+ false .*(cannot be (written|opened)|EACCES)/u, stderr);
  });

  it("starts over when its file is removed while it runs, and says so", async () => {
    const events: BusEvent[] = [];
    await using bus = createBus({ adapter: sqlite({ path }), onEvent: (event) => void events.push(event) });
    const received: string[] = [];
    await bus.consume(topic, { group: "g", once: false }, (note) => void received.push(note));
    await bus.publish(topic, "before");
    await eventually(() => assert.deepEqual(received, ["before"]));

    for (const suffix of ["", "-wal", "-shm"]) rmSync(`${path}${suffix}`, { force: true });
    await bus.publish(topic, "after");
    await eventually(() => assert.deepEqual(received, ["before", "after"]));
    assert.ok(existsSync(path));
    await bus.transaction((_tx, outbox) => outbox.publish(topic, "from the outbox"));
    bus.relay();
    await eventually(() => assert.deepEqual(received, ["before", "after", "from the outbox"]));
    assert.equal(events.filter(({ type }) => type === "disconnected").length, 1);

    await assert.rejects(
      bus.transaction(async (_tx, outbox) => {
        await outbox.publish(topic, "into a file that is gone");
        for (const suffix of ["", "-wal", "-shm"]) rmSync(`${path}${suffix}`, { force: true });
      }),
      { code: "ERR_STORE", message: /removed or replaced/u },
    );
    await bus.publish(topic, "again");
    await eventually(() => assert.equal(received.at(-1), "again"));

    // Nobody publishes here: the consumer has to find out by itself.
    for (const suffix of ["", "-wal", "-shm"]) rmSync(`${path}${suffix}`, { force: true });
    await eventually(() => assert.equal(events.filter(({ type }) => type === "disconnected").length, 3));
    await using other = createBus({ adapter: sqlite({ path }), runtime: { ...nodeRuntime } });
    await other.publish(topic, "from another");
    await eventually(() => assert.ok(received.includes("from another")));
    await bus.close();
  });

  it("makes its group again when somebody has deleted it, and reports messages that were", async () => {
    const events: BusEvent[] = [];
    await using bus = createBus({ adapter: sqlite({ path }), onEvent: (event) => void events.push(event) });
    const received: string[] = [];
    const consumer = await bus.consume(
      topic,
      { group: "g", once: false },
      (note) => void received.push(note),
    );
    const other = new DatabaseSync(path);
    await insist(() => other.exec("DELETE FROM postrider_groups"));
    await eventually(() =>
      assert.equal(other.prepare("SELECT count(*) AS n FROM postrider_groups").get()?.["n"], 1),
    );
    await bus.publish(topic, "one");
    await eventually(() => assert.deepEqual(received, ["one"]));

    consumer.pause();
    await bus.publish(topic, "two");
    await insist(() => other.exec("DELETE FROM postrider_messages"));
    consumer.resume();
    await eventually(() => assert.ok(events.some((event) => event.type === "lost" && event.count === 1)));
    await bus.publish(topic, "three");
    await eventually(() => assert.deepEqual(received, ["one", "three"]));
    other.close();
  });

  it("is not healthy while the file cannot be written, and is again without being asked", async () => {
    await using bus = createBus({ adapter: sqlite({ path }) });
    await bus.publish(topic, "before");
    const other = new DatabaseSync(path);
    other.exec(
      "CREATE TRIGGER broken BEFORE INSERT ON postrider_messages BEGIN SELECT RAISE(ABORT, 'broken'); END",
    );
    await assert.rejects(bus.publish(topic, "x"), { code: "ERR_BROKER" });
    assert.equal(bus.health().ready, false);
    await eventually(() => assert.equal(bus.health().ready, true));
    other.close();
  });
});

describe("sqlite: writes", () => {
  it("fails only the write that is wrong when several share a transaction", async () => {
    await using first = createBus({ adapter: sqlite({ path }) });
    await using second = createBus({ adapter: sqlite({ path }) });
    await Promise.all([first, second].map((bus) => bus.publish(topic, "before")));
    const other = new DatabaseSync(path);
    other.exec(
      `CREATE TRIGGER refuse BEFORE INSERT ON postrider_messages WHEN NEW.body = CAST('"bad"' AS BLOB) BEGIN SELECT RAISE(ABORT, 'refused'); END`,
    );
    other.close();

    const [good, bad] = await Promise.allSettled([
      first.publish(topic, "good"),
      second.publish(topic, "bad"),
    ]);
    assert.equal(good.status, "fulfilled");
    assert.ok(bad.status === "rejected");
    assert.equal((bad.reason as { readonly accepted?: unknown }).accepted, "no");
  });

  it("sees what other processes commit also where the file system does not tell", async () => {
    const runtime = createFakeRuntime();
    let version = 1;
    let seen = 0;
    const watch = new Watch(runtime, {
      dataVersion: () => version,
      onLogWritten: () => () => undefined,
      isReplaced: () => false,
      replaced: () => undefined,
      stalled: () => undefined,
    });
    const stop = watch.add("t", () => (seen += 1));
    await runtime.advance(1_000);
    const before = seen;
    version = 2;
    await runtime.advance(25);
    assert.equal(seen, before + 1);
    stop();
    assert.equal(runtime.nextTimerMs, undefined, "it looks on though nobody listens");
  });
});

describe("sqlite: clocks", () => {
  it("keeps its deliveries when the wall clock jumps ahead by an hour", async () => {
    let ahead = 0;
    const runtime = { ...nodeRuntime, now: () => nodeRuntime.now() + ahead };
    let handled = 0;
    const onEvent = ({ type }: BusEvent): unknown => type === "handled" && (handled += 1);
    await using bus = createBus({ adapter: sqlite({ path }), runtime, onEvent });
    await using other = createBus({ adapter: sqlite({ path }), runtime: { ...runtime }, onEvent });
    let runs = 0;
    let finish = (): void => undefined;
    const held = new Promise<void>((resolve) => (finish = resolve));
    for (const each of [bus, other]) {
      await each.consume(topic, { group: "g", once: false }, async () => {
        runs += 1;
        await held;
      });
    }
    await bus.publishAll(topic, ["one", "two", "three", "four"]);
    await eventually(() => assert.equal(runs, 4));
    ahead = 3_600_000;
    await bus.publish(topic, "five");
    await eventually(() => assert.equal(runs, 5));
    const db = new DatabaseSync(path);
    await eventually(() => {
      const leases = db.prepare("SELECT at FROM postrider_deliveries WHERE state = 3").all();
      assert.equal(leases.length, 5);
      assert.ok(
        leases.every(({ at }) => Number(at) > runtime.now()),
        "a lease has run out",
      );
    });
    db.close();
    finish();
    await eventually(() => assert.equal(handled, 5));
    assert.equal(runs, 5, "a delivery was handed over again while its handler ran");
  });

  it("does not hold messages back when the wall clock goes back", async () => {
    let ahead = 0;
    await using bus = createBus({
      adapter: sqlite({ path }),
      runtime: { ...nodeRuntime, now: () => nodeRuntime.now() + ahead },
    });
    await bus.declare({ groups: { g: [topic] } });
    await bus.publish(topic, "before");
    ahead = -3_600_000;
    await bus.publish(topic, "after");
    const received: string[] = [];
    await bus.consume(topic, { group: "g", once: false }, (note) => void received.push(note));
    await eventually(() => assert.deepEqual(received, ["before", "after"]));
  });
});
