/** What is MariaDB's and MySQL's own: options, connecting, rights, settings of servers and sessions. */
import assert from "node:assert/strict";
import { inspect } from "node:util";
import { createPool as createCallbackPool } from "mysql2";
import { type PoolOptions, createPool } from "mysql2/promise";
import { type BusEvent, createBus, defineTopic } from "postrider";
import { mysql } from "postrider/mysql";
import { eventually } from "postrider/testing";
import { describe, it, onTestFinished } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import type { Store } from "../../src/store.ts";
import { entry, idOf } from "../../src/testing/store/world.ts";
import { openMysqlDatabase } from "../support/mysql-database.ts";
import { context, setupDatabase } from "./mysql-setup.ts";

const setup = setupDatabase();

const all = { above: 0n, parkedTopics: [], limit: 10 };

const fetched = async (store: Store): Promise<string[]> => (await store.outbox.fetch(all)).rows.map(idOf);

describe("options", () => {
  const pool = createPool({ host: "localhost" });
  it.each<[string, object, RegExp]>([
    ["an unknown one", { urll: "x" }, /unknown option "urll" \(did you mean "url"\?\)/u],
    ["a pool with what has no effect on it", { pool, user: "u" }, /"user" has no effect beside "pool"/u],
    ["a pool and a URL", { pool, url: "mysql://h/d" }, /"url" has no effect beside "pool"/u],
    ["no pool", { pool: {} }, /must be a Pool of "mysql2"/u],
    [
      "a URL of something else",
      { url: "postgres://u:secret@h/d" },
      /must be like mysql:\/\/.*postgres:\/\/u:\*\*\*@h/u,
    ],
    [
      "an unknown one in the URL",
      { url: "mysql://h/d?sll=1" },
      /unknown option "sll" \(did you mean "ssl"\?\)/u,
    ],
    ["two URLs", { url: "mysql://h/d", uri: "mysql://h/d" }, /not both/u],
    ["a prefix that would need quotes", { url: "mysql://h/d", prefix: "a`b" }, /prefix must match/u],
    ["a prefix that makes names too long", { url: "mysql://h/d", prefix: "x".repeat(41) }, /1\.\.40/u],
    ["no connections", { url: "mysql://h/d", connectionLimit: 0 }, /connectionLimit must be an integer/u],
    ["no connections, in the URL", { url: "mysql://h/d?connectionLimit=0" }, /must be an integer/u],
  ])("refuses %s", (_name, options, message) => {
    assert.throws(() => mysql(options), { code: "ERR_CONFIG", message });
  });

  it("accepts URLs of both servers, and single options", () => {
    mysql({ url: "mysql://u:p@localhost/app?connectionLimit=5" });
    mysql({ url: "mariadb://localhost/app", prefix: "_a1" });
    mysql({ host: "localhost", database: "app" });
  });
});

describe("connecting", () => {
  const failures: readonly (readonly [string, (url: string) => string, RegExp, boolean])[] = [
    ["nobody listens", (url) => url.replace(/:\d+\//u, ":1/"), /ECONNREFUSED/u, true],
    [
      "the user is unknown",
      (url) => url.replace("//root@", "//nobody:secret@"),
      /'nobody'.*\(1045\)\. Check user and password/u,
      false,
    ],
    ["the database is missing", (url) => `${url}_x`, /Unknown database .*\(1049\)/u, false],
    ["no database is named", (url) => url.replace(/\/[^/]*$/u, ""), /names no database/u, false],
    ["the server has no TLS", (url) => `${url}?ssl={}`, /does not support secure connection/u, false],
  ];
  it.each(failures)("says so when %s", async (_name, change, message, retryable) => {
    const store = mysql({ url: change(setup.database.url) });
    onTestFinished(() => store.close());

    const error = (await store.connect(context).catch((thrown: unknown) => thrown)) as Error;

    await assert.rejects(Promise.reject(error), {
      name: "StoreError",
      code: "ERR_STORE",
      retryable,
      message,
    });
    assert.doesNotMatch(error.message, /secret/u);
    assert.equal(store.health().connected, false);
  });

  it("refuses tables that are newer than it can use", async () => {
    const { known } = await (await setup.open()).version();
    await setup.database.pool.query("UPDATE postrider_meta SET version = 99, oldest_code = 99");
    onTestFinished(async () => {
      await setup.database.pool.query("UPDATE postrider_meta SET version = ?, oldest_code = 1", [known]);
    });

    await assert.rejects(setup.open(), { code: "ERR_SCHEMA", message: /have 99.*Upgrade the package/u });
    await setup.database.pool.query("UPDATE postrider_meta SET oldest_code = 1");
    await setup.open();
  });

  it("finishes a migration that was cut off", async () => {
    const database = await openMysqlDatabase({ bare: true });
    onTestFinished(() => database.close());
    const store = mysql({ url: database.url });
    onTestFinished(() => store.close());
    const { to } = await store.migrate();
    await database.pool.query("UPDATE postrider_meta SET version = 0");
    await database.pool.query("DROP TABLE postrider_inbox");
    await database.pool.query("DELETE FROM postrider_outbox_keys WHERE id > 10");

    assert.deepEqual(await store.migrate(), { from: 0, to });
    await store.connect(context);

    const [rows] = await database.pool.query("SELECT COUNT(*) AS n FROM postrider_outbox_keys");
    assert.deepEqual(rows, [{ n: 65_536 }]);
    assert.equal(await store.inbox.purge(0, 1), 0);
  });

  it("gives its migrations as text for a tool of the user's, which makes the tables in its own database", async () => {
    const database = await openMysqlDatabase({ bare: true });
    onTestFinished(() => database.close());
    const store = mysql({ url: database.url });
    onTestFinished(() => store.close());
    const before = await store.version();

    const tool = await setup.client({ uri: database.url, multipleStatements: true });
    for (const text of store.migrations()) await tool.query(text);

    const known = store.migrations().length;
    assert.deepEqual(
      [before, await store.version()],
      [
        { have: 0, known },
        { have: known, known },
      ],
    );
    await store.connect(context);
    const one = await setup.client({ uri: database.url }, "START TRANSACTION");
    await store.outbox.append(one, [entry("first", { key: "k" })]);
    await one.commit();
    assert.deepEqual(await fetched(store), ["first"]);
  });

  it("keeps services with a prefix each apart, in one database", async () => {
    const stores = await Promise.all(
      ["service_a_", "service_b_"].map(async (prefix) => {
        const store = mysql({ url: setup.database.url, prefix });
        await store.migrate();
        await store.close();
        return setup.open({ url: setup.database.url, prefix });
      }),
    );
    const [a, b] = stores;
    assert.ok(a !== undefined && b !== undefined);

    const one = await setup.client();
    await one.beginTransaction();
    await a.outbox.append(one, [entry("of a", { key: "k" })]);
    await b.outbox.append(one, [entry("of b", { key: "k" })]);
    await one.commit();
    const leases = [await a.outbox.acquire("x", 60_000), await b.outbox.acquire("y", 60_000)];

    assert.deepEqual([await fetched(a), await fetched(b)], [["of a"], ["of b"]]);
    assert.ok(leases.every((lease) => lease !== undefined));
  });
});

describe("rights and settings", () => {
  it("needs no right beyond those on its own tables", async () => {
    const { pool, url } = setup.database;
    const name = new URL(url).pathname.slice(1);
    await pool.query(`CREATE USER IF NOT EXISTS ${name}@'%' IDENTIFIED BY 'secret'`);
    onTestFinished(async () => void (await pool.query(`DROP USER ${name}@'%'`)));
    await pool.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON ${name}.* TO ${name}@'%'`);
    const topic = defineTopic<string>("modest", { key: (text) => text });
    const modest = Object.assign(new URL(url), { username: name, password: "secret" }).href;
    const events: BusEvent[] = [];
    const bus = createBus({
      adapter: "memory:",
      store: mysql({ url: modest }),
      onEvent: (event) => void events.push(event),
    });
    onTestFinished(() => bus.close());
    await bus.consume(topic, { group: "g", once: "transaction" }, async (text, { tx }) => {
      await setup.database.addEffect(tx, text);
    });
    bus.relay();

    for (const text of ["a", "b", "c"]) await bus.transaction((_tx, outbox) => outbox.publish(topic, text));

    await eventually(async () => assert.equal((await setup.database.effects()).length, 3));
    // A transaction that holds its gate keeps the mark where it is; that it is gone again is seen without any right.
    const store = await setup.open({ url: modest });
    const open = await setup.database.begin();
    await store.outbox.append(open.handle, [entry("open")]);
    const { mark } = await store.outbox.remove([], 0n);
    assert.ok((await store.outbox.fetch(all)).horizon <= mark);
    await open.commit();
    assert.ok((await store.outbox.fetch(all)).horizon > mark);
    assert.deepEqual(
      events.filter(({ type }) => type === "relayFailed"),
      [],
    );
  });

  it("proves that earlier transactions have ended even while others never cease to overlap", async () => {
    const store = await setup.open();
    let stop = false;
    const writer = async (): Promise<void> => {
      let before = await setup.database.begin();
      await store.outbox.append(before.handle, [entry("x")]);
      while (!stop) {
        const next = await setup.database.begin();
        await store.outbox.append(next.handle, [entry("x")]);
        await nodeRuntime.sleep(50);
        await before.commit();
        before = next;
      }
      await before.commit();
    };
    const writing = writer();
    const { mark } = await store.outbox.remove([], 0n);

    await eventually(async () => assert.ok((await store.outbox.fetch(all)).horizon > mark), 20_000);
    stop = true;
    await writing;
  });

  it("compares topics, keys and names of messages by their bytes, whatever the database's collation", async () => {
    await setup.database.pool.query("ALTER DATABASE CHARACTER SET latin1 COLLATE latin1_general_ci");
    const store = await setup.open();
    const claimOf = (scope: string, key: string): object => ({ scope, key, redrives: 0, token: scope + key });
    const claims = ["a", "A", "a ", "ä", "a\u0308", "ß", "ss"].flatMap((text) => [
      claimOf("t", text),
      claimOf(text, "t"),
    ]);

    const answers = await store.inbox.claim(claims as never, 60_000);
    const one = await setup.client();
    await one.beginTransaction();
    await store.outbox.append(one, [entry("lower", { topic: "t" }), entry("upper", { topic: "T" })]);
    await one.commit();
    const { rows } = await store.outbox.fetch({ ...all, parkedTopics: ["t"] });

    assert.deepEqual(
      answers,
      claims.map(() => "fresh"),
    );
    assert.deepEqual(rows.map(idOf), ["upper"]);
  });

  const odd = {
    text: "\"'\\ $1 ? :a @b %s -- /* é 漢 🚀 \u0000",
    statements: [
      "SET SESSION sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES,HIGH_NOT_PRECEDENCE,NO_AUTO_VALUE_ON_ZERO'",
      "SET SESSION time_zone = '+11:00', SESSION group_concat_max_len = 4, SESSION sql_select_limit = 100",
      "SET NAMES latin1",
      "SET SESSION autocommit = 0",
      "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    ],
  };

  it("writes the same on a connection of the user's, however it is set", async () => {
    const store = await setup.open();
    const body = new TextEncoder().encode(odd.text);
    const settings = {
      charset: "latin1_swedish_ci",
      namedPlaceholders: true,
      bigNumberStrings: true,
      supportBigNumbers: true,
      rowsAsArray: false,
      nestTables: true,
      typeCast: () => "nonsense",
      stringifyObjects: true,
      queryFormat: (query: string) => query.replaceAll("?", "nonsense"),
    };
    const one = await setup.client(settings, ...odd.statements);
    await one.beginTransaction();
    await store.outbox.append(one, [entry("odd", { key: odd.text, body })]);
    await store.outbox.append(one, [entry("two", { key: odd.text, body }), entry("three")]);
    await one.commit();

    const { rows } = await store.outbox.fetch(all);

    assert.deepEqual(rows.map(idOf), ["odd", "two", "three"]);
    assert.equal(rows[0]?.message.key, odd.text);
    assert.deepEqual(Buffer.from(rows[0]?.message.body ?? []), Buffer.from(body));
    assert.ok((await store.outbox.backlog()).oldestMs < 60_000);
  });

  const pools: readonly (readonly [string, PoolOptions, readonly string[]])[] = [
    ["however they are set", { charset: "latin1_swedish_ci", namedPlaceholders: true }, odd.statements],
    [
      "that would read what is not committed",
      { typeCast: () => "nonsense", bigNumberStrings: true, supportBigNumbers: true },
      ["SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"],
    ],
  ];
  it.each(pools)("works on sessions of the user's pool %s", async (_name, options, statements) => {
    const pool = createCallbackPool({ uri: setup.database.url, ...options });
    onTestFinished(() => pool.promise().end());
    pool.on("connection", (connection) => {
      for (const statement of statements) connection.query(statement);
    });
    const store = await setup.open({ pool });
    const open = await setup.database.begin();
    await store.outbox.append(open.handle, [entry("open")]);

    const uncommitted = await fetched(store);
    await open.commit();
    await store.transaction(async (tx) => {
      const answer = await store.inbox.record(tx, { scope: "s", key: odd.text, redrives: 0 }, "handled");
      assert.equal(answer, "fresh");
      await store.outbox.append(tx, [entry("two", { key: odd.text })]);
    });
    const claim = { scope: "s", key: "c", redrives: 0, token: "t" };
    const answers = await store.inbox.claim([claim, { ...claim, token: "u" }], 60_000);
    await store.inbox.complete([{ ...claim, outcome: "dead" }]);

    // What it did is there for others too.
    const other = await setup.open();
    assert.deepEqual(uncommitted, []);
    assert.deepEqual(await fetched(other), ["open", "two"]);
    assert.deepEqual(answers, ["fresh", "busy"]);
    assert.deepEqual(await other.inbox.claim([{ ...claim, redrives: 1, token: "v" }], 60_000), ["fresh"]);
  });

  it("warns of a server that confirms a commit before it is on disk", async () => {
    const { pool } = setup.database;
    onTestFinished(async () => void (await pool.query("SET GLOBAL innodb_flush_log_at_trx_commit = 1")));
    await pool.query("SET GLOBAL innodb_flush_log_at_trx_commit = 2");
    const events: BusEvent[] = [];
    const store = mysql({ url: setup.database.url });
    onTestFinished(() => store.close());

    await store.connect({ ...context, emit: (event) => void events.push(event) });

    assert.equal(events[0]?.type === "warning" && events[0].code, "MYSQL_FLUSH");
  });
});

describe("rows", () => {
  it("that the server would not take are refused before they are sent, and the transaction goes on", async () => {
    const store = await setup.open();
    const one = await setup.client();
    await one.beginTransaction();
    const large = entry("large", { body: new Uint8Array(9 * 1_048_576) });

    await assert.rejects(store.outbox.append(one, [entry("with it"), large]), {
      code: "ERR_STORE",
      retryable: false,
      message: /topic "t".*max_allowed_packet/u,
    });
    await store.outbox.append(one, [entry("after")]);
    await one.commit();

    assert.deepEqual(await setup.outbox(), ["after"]);
  });

  it("leave nothing of what is in them in an error", async () => {
    const store = await setup.open();
    const one = await setup.client();
    await one.beginTransaction();
    const secret = Buffer.from("secret");
    await setup.database.pool.query("ALTER TABLE postrider_outbox RENAME TO away");
    onTestFinished(async () => {
      await setup.database.pool.query("ALTER TABLE away RENAME TO postrider_outbox");
    });

    const error = await store.outbox
      .append(one, [entry("1", { body: secret })])
      .catch((thrown: unknown) => thrown);

    await assert.rejects(Promise.reject(error), { code: "ERR_SCHEMA", message: /\(1146\).*bus\.migrate/u });
    assert.doesNotMatch(inspect(error, { depth: 9 }), new RegExp(secret.toString("hex"), "iu"));
  });

  it("that cannot be read are named, so that a person can move them", async () => {
    const store = await setup.open();
    await setup.database.pool.query(
      `INSERT INTO postrider_outbox (topic, body, attributes, headers, partitions, keyed, dead, durability, created_at)
       VALUES ('t', 'x', 'no json', '{}', 1, 0, 0, 'none', UTC_TIMESTAMP(6))`,
    );

    await assert.rejects(store.outbox.fetch(all), {
      name: "StoreError",
      message: /outbox row \d+ cannot be read/u,
    });
  });
});
