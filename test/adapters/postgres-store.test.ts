/** What is PostgreSQL's own: options, connecting, schemas. */
import assert from "node:assert/strict";
import { Pool } from "pg";
import { postgres } from "postrider/postgres";
import { describe, it, onTestFinished } from "vitest";
import { entry } from "../../src/testing/store/world.ts";
import { context, setupDatabase } from "./postgres-setup.ts";

const setup = setupDatabase();

describe("options", () => {
  it.each<[string, object, RegExp]>([
    ["an unknown one", { urll: "x" }, /unknown option "urll" \(did you mean "url"\?\)/u],
    [
      "a pool with what has no effect on it",
      { pool: new Pool(), max: 3 },
      /"max" has no effect beside "pool"/u,
    ],
    ["no pool", { pool: {} }, /must be a Pool of "pg"/u],
    [
      "a URL of something else",
      { url: "mysql://u:secret@h/d" },
      /must be like postgres:\/\/.*mysql:\/\/u:\*\*\*@h/u,
    ],
    ["two URLs", { url: "postgres://h/d", connectionString: "postgres://h/d" }, /not both/u],
    ["a schema that would need quotes", { url: "postgres://h/d", schema: 'a"b' }, /schema must match/u],
    ["a schema of the system", { url: "postgres://h/d", schema: "pg_x" }, /schema must match/u],
    ["a schema that is cut off", { url: "postgres://h/d", schema: "x".repeat(64) }, /1\.\.63/u],
    ["no connections", { url: "postgres://h/d", max: 0 }, /max must be an integer/u],
  ])("refuses %s", (_name, options, message) => {
    assert.throws(() => postgres(options), { code: "ERR_CONFIG", message });
  });

  it("accepts a URL without a host", () => {
    postgres({ url: "postgres:///app?host=/run/postgresql" });
    postgres({ host: "localhost", database: "app", schema: "_a1" });
  });
});

describe("connecting", () => {
  const failures: readonly (readonly [string, (url: string) => string, RegExp, boolean])[] = [
    ["nobody listens", (url) => url.replace(/:\d+\//u, ":1/"), /ECONNREFUSED/u, true],
    [
      "the user is unknown",
      (url) => url.replace("//postgres@", "//nobody:secret@"),
      /"nobody".*\(28000\)/u,
      false,
    ],
    ["the database is missing", (url) => `${url}_x`, /does not exist \(3D000\)/u, false],
    ["the server has no TLS", (url) => `${url}?sslmode=verify-full`, /does not support SSL/u, false],
  ];
  it.each(failures)("says so when %s", async (_name, change, message, retryable) => {
    const store = postgres({ url: change(setup.database.url) });
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
    assert.equal(store.health().error, error);
  });

  it("refuses tables that are newer than it can use", async () => {
    const { rows } = await setup.database.pool.query("SELECT version, oldest_code FROM postrider.meta");
    const { version, oldest_code: oldestCode } = rows[0];
    await setup.database.pool.query("UPDATE postrider.meta SET version = 99, oldest_code = 99");
    onTestFinished(async () => {
      await setup.database.pool.query("UPDATE postrider.meta SET version = $1, oldest_code = $2", [
        version,
        oldestCode,
      ]);
    });

    await assert.rejects(setup.open(), { code: "ERR_SCHEMA", message: /have 99.*Upgrade the package/u });
    await setup.database.pool.query("UPDATE postrider.meta SET oldest_code = 1");
    await setup.open();
  });

  it("keeps services with a schema each apart, in one database", async () => {
    const names = ["service_a", "service_b"];
    const stores = await Promise.all(
      names.map(async (schema) => {
        const store = postgres({ url: setup.database.url, schema });
        await store.migrate();
        await store.close();
        return setup.open({ url: setup.database.url, schema });
      }),
    );
    const [a, b] = stores;
    assert.ok(a !== undefined && b !== undefined);

    const one = await setup.client();
    await one.query("BEGIN");
    // One key in both: neither waits for the other, though the transaction is the same.
    await a.outbox.append(one, [entry("of a", { key: "k" })]);
    await b.outbox.append(one, [entry("of b", { key: "k" })]);
    await one.query("COMMIT");
    const leases = [await a.outbox.acquire("x", 60_000), await b.outbox.acquire("y", 60_000)];

    for (const [store, id] of [[a, "of a"] as const, [b, "of b"] as const]) {
      const { rows } = await store.outbox.fetch({ above: 0n, parkedTopics: [], limit: 10 });
      assert.deepEqual(
        rows.map(({ message }) => message.attributes["id"]),
        [id],
      );
    }
    assert.ok(leases.every((lease) => lease !== undefined));
  });

  it("does not care how the program has pg read types", async () => {
    const types = { getTypeParser: () => () => "nonsense" };
    const store = await setup.open({ url: setup.database.url, types });
    const pool = new Pool({ connectionString: setup.database.url, types });
    onTestFinished(() => pool.end());

    await store.transaction(async (tx) => {
      assert.equal(await store.inbox.record(tx, { scope: "s", key: "k", redrives: 0 }, "handled"), "fresh");
      await store.outbox.append(tx, [entry("one")]);
    });
    const given = await setup.open({ pool });
    const { rows, horizon } = await given.outbox.fetch({ above: 0n, parkedTopics: [], limit: 10 });

    assert.equal(rows[0]?.message.attributes["id"], "one");
    assert.ok(horizon > 0n);
  });
});

describe("foreign rows", () => {
  it("that cannot be read are named, so that a person can move them", async () => {
    const store = await setup.open();
    await setup.database.pool.query(
      "INSERT INTO postrider.outbox (topic, body, attributes, headers, partitions, keyed) VALUES ('t', 'x', 'no json', '{}', 1, false)",
    );

    await assert.rejects(store.outbox.fetch({ above: 0n, parkedTopics: [], limit: 10 }), {
      name: "StoreError",
      message: /outbox row \d+ cannot be read/u,
    });
  });
});
