/** `postrider migrate`, as a process of its own, from the sources. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { postgres } from "postrider/postgres";
import { sqliteStore } from "postrider/sqlite";
import { afterAll, beforeAll, describe, it } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import { runCli } from "../../src/cli/run.ts";
import { version } from "../../src/version.ts";
import { type PostgresTestDatabase, openPostgresDatabase } from "../support/postgres-database.ts";

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
const context = { runtime: nodeRuntime, emit: () => undefined };

let folder: string;
let database: PostgresTestDatabase;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "postrider-cli-"));
  database = await openPostgresDatabase({ bare: true });
});

afterAll(async () => {
  await database.close();
  await rm(folder, { recursive: true });
});

interface Ended {
  readonly code: unknown;
  readonly out: string;
  readonly err: string;
}

async function postrider(args: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
  const child = spawn(process.execPath, ["--conditions=postrider-source", main, ...args], {
    env: { PATH: process.env["PATH"], ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, err, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "exit") as Promise<[unknown]>,
  ]);
  return { code, out, err };
}

/** The same, within this process. */
async function within(args: readonly string[]): Promise<Ended> {
  let [out, err] = ["", ""];
  const code = await runCli(args, {
    out: (text) => void (out += text),
    err: (text) => void (err += text),
    env: {},
  });
  return { code, out, err };
}

const known = sqliteStore({ path: "x" }).migrations().length;

describe("postrider migrate", () => {
  it("makes the tables of a file once, and says whether they are up to date without making them", async () => {
    const path = join(folder, "app.db");

    const before = await postrider(["migrate", "status", "--database", path]);
    const existed = existsSync(path);
    const first = await postrider(["migrate", "up", "--database", `sqlite:${path}`]);
    const second = await postrider(["migrate", "up"], { DATABASE_URL: path });
    const after = await postrider(["migrate", "status", "--database", path]);

    assert.deepEqual(before, {
      code: 1,
      out: `version 0, this postrider makes ${known}: run "postrider migrate up"\n`,
      err: "",
    });
    assert.equal(existed, false);
    assert.deepEqual(first, { code: 0, out: `version 0 -> ${known}\n`, err: "" });
    assert.deepEqual(second, { code: 0, out: `version ${known}: nothing to do\n`, err: "" });
    assert.equal(after.code, 0);
  });

  it("may be run by two processes at once", async () => {
    const args = ["migrate", "up", "--schema", "twice", "--database", database.url];

    const ended = await Promise.all([postrider(args), postrider(args)]);
    const status = await postrider(args.with(1, "status"));
    const elsewhere = await postrider(["migrate", "status", "--database", database.url]);

    assert.deepEqual(
      ended.map(({ code, err }) => ({ code, err })),
      Array.from(ended, () => ({ code: 0, err: "" })),
    );
    assert.equal(status.code, 0);
    assert.equal(elsewhere.code, 1);
  });

  it("prints the SQL without a connection: all of it, or that of one version", async () => {
    const url = "postgres://nobody@127.0.0.1:1/none";
    const args = ["migrate", "print", "--schema", "printed", "--database", url];

    const all = await postrider(args);
    const each = await Promise.all(
      Array.from({ length: known }, (_, index) => postrider([...args, `${index + 1}`])),
    );
    await database.pool.query(all.out);
    const store = postgres({ url: database.url, schema: "printed" });
    await store.connect(context);
    await store.close();

    assert.equal(all.out, each.map(({ out }) => out).join("\n"));
  });

  it("says in one error what it does not understand, and ends with 2", async () => {
    const wrong: readonly [readonly string[], RegExp][] = [
      [[], /a command is needed/u],
      [["migrat", "up"], /unknown command "migrat" \(did you mean "migrate"\?\)/u],
      [["migrate"], /migrate needs a command: up, status, print/u],
      [["migrate", "stats"], /unknown command "migrate stats" \(did you mean "status"\?\)/u],
      [["migrate", "up"], /give --database or set DATABASE_URL/u],
      [["migrate", "up", "--databse", "x"], /unknown option "--databse" \(did you mean "--database"\?\)/u],
      [["migrate", "up", "--database"], /--database needs a value/u],
      [["migrate", "up", "--database", "--schema"], /--database needs a value/u],
      [["migrate", "up", "now", "--database", "x"], /takes no argument, got "now"/u],
      [["migrate", "print", "9999", "--database", "x"], /no version "9999"/u],
      [["migrate", "print", "--schema", "s", "--database", "x"], /unknown option "schema"/u],
      [["migrate", "up", "--database", "postgrs://u:pw@h/d"], /did you mean "postgres"/u],
      [["migrate", "up", "--database", "sqlite://app.db"], /two slashes/u],
      [["--help=1"], /--help takes no value/u],
    ];
    for (const [args, message] of wrong) {
      const { code, out, err } = await within(args);
      assert.match(err, message);
      assert.doesNotMatch(err, /pw/u);
      assert.deepEqual({ code, out }, { code: 2, out: "" }, args.join(" "));
    }
    assert.deepEqual(await within(["--version"]), { code: 0, out: `${version}\n`, err: "" });
    assert.match((await within(["--help"])).out, /^usage: postrider migrate up/u);
  });

  it("ends with 1 when it fails, or when the tables are of a newer postrider", async () => {
    const unreachable = await postrider(["migrate", "up", "--database", "postgres://u:pw@127.0.0.1:1/d"]);
    const path = join(folder, "newer.db");
    await postrider(["migrate", "up", "--database", path]);
    const db = new DatabaseSync(path);
    db.exec("UPDATE postrider_schema SET version = 99");
    db.close();
    const newer = await postrider(["migrate", "status", "--database", path]);

    assert.equal(unreachable.code, 1);
    assert.match(unreachable.err, /^postrider: .*ECONNREFUSED/u);
    assert.equal(newer.code, 1);
    assert.match(newer.err, /version 99/u);
  });
});
