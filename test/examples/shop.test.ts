/** The shop is the main job: it must end right on every broker, killed or not, and say what is wrong with its input. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, it } from "vitest";
import { broker } from "../../scripts/brokers/index.ts";

const main = fileURLToPath(new URL("../../examples/shop/main.ts", import.meta.url));
const allOrders = fileURLToPath(new URL("../../examples/shop/orders.jsonl", import.meta.url));
const servers = (["rabbitmq", "kafka", "redis", "postgres"] as const).map(broker);
const [rabbitmq, kafka, redis, postgres] = servers.map((server) => server.url);

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "postrider-shop-"));
  await Promise.all(servers.map((server) => server.up()));
}, 240_000);
afterAll(() => rm(folder, { recursive: true }));

interface Ended {
  readonly code: number | null;
  readonly output: string;
}

/** Runs the shop in a folder of its own, and kills it as soon as its output matches `killAt`. */
function shop(options: readonly string[], { killAt, cwd = folder }: { killAt?: RegExp; cwd?: string } = {}) {
  return new Promise<Ended>((resolve, reject) => {
    const child = spawn(process.execPath, ["--conditions=postrider-source", main, ...options], { cwd });
    let output = "";
    const take = (chunk: Buffer): void => {
      output += chunk.toString();
      if (killAt?.test(output) === true) child.kill("SIGKILL");
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, output }));
  });
}

/** The first orders, with their duplicates, malformed lines and troubles. */
async function someOrders(count: number): Promise<string> {
  const path = join(folder, `orders-${count}.jsonl`);
  const lines = (await readFile(allOrders, "utf8")).split("\n");
  await writeFile(path, `${lines.slice(0, count).join("\n")}\n`);
  return path;
}

const journeys: readonly (readonly [string, readonly string[]])[] = [
  ["the embedded broker", ["--database", "killed.db"]],
  ["the embedded broker and PostgreSQL", ["--database", postgres ?? ""]],
  ["RabbitMQ and PostgreSQL", ["--broker", rabbitmq ?? "", "--database", postgres ?? ""]],
  ["Kafka", ["--broker", kafka ?? ""]],
  ["Redis", ["--broker", redis ?? ""]],
];

describe("the shop", () => {
  it.concurrent.each(journeys)(
    "loses nothing and does nothing twice on %s, killed twice on the way",
    async (_name, options) => {
      const args = [...options, "--orders", await someOrders(320)];

      const early = await shop([...args, "--fresh"], { killAt: /placing orders/u });
      const late = await shop(args, { killAt: /placed \d+ orders/u });
      const { code, output } = await shop(args);

      assert.deepEqual([early.code, late.code], [null, null], early.output + late.output);
      assert.match(output, /lost 0, twice 0\n$/u);
      assert.match(output, /orders +308 \(0 new in this run\)/u);
      assert.match(output, /dead letters after redrive +0\n/u);
      assert.match(output, /line 103: not JSON/u);
      assert.match(output, /line 311: total: Invalid input/u);
      assert.equal(code, 0);
    },
    240_000,
  );

  it("says what is lost, and ends with 1, when something is", async () => {
    const args = ["--database", "lost.db", "--orders", await someOrders(20)];
    await shop(args);
    const { DatabaseSync } = await import("node:sqlite");
    const db = new DatabaseSync(join(folder, "lost.db"));
    db.exec("delete from mails where order_id = (select min(order_id) from mails)");
    db.exec("insert into mails values ('x'), ('x')");
    db.close();

    const { code, output } = await shop(args);

    assert.match(output, /lost 1, twice 1\n$/u);
    assert.equal(code, 1);
  }, 120_000);
});

const wrong: readonly (readonly [string, readonly string[], RegExp, number])[] = [
  ["an unknown option", ["--brokr", "x"], /^Unknown option '--brokr'.*\nusage: /u, 2],
  [
    "an unknown broker",
    ["--broker", "ampq://x"],
    /^unknown broker scheme "ampq" .*did you mean "amqp"\?\)\n$/u,
    2,
  ],
  ["an unknown database", ["--database", "oracle://x"], /^unknown database scheme "oracle"[^\n]*\n$/u, 1],
  ["a file that is not there", ["--orders", "none.jsonl"], /^ENOENT: [^\n]*none\.jsonl'\n$/u, 1],
  [
    "a wrong password of RabbitMQ",
    ["--broker", rabbitmq?.replace("://", "://guest:wrong@") ?? ""],
    /^RabbitMQ at [^\n]* refused the login[^\n]*\n$/u,
    1,
  ],
  [
    "a wrong password of Redis",
    ["--broker", redis?.replace("://", "://guest:wrong@") ?? ""],
    /^connecting to Redis at [^\n]* refused username or password[^\n]*\n$/u,
    1,
  ],
  [
    "a database that does not exist",
    ["--database", `${postgres}_none`],
    /^cannot open the shop's database: [^\n]* does not exist\n$/u,
    1,
  ],
  ["a broker that is down: RabbitMQ", ["--broker", "amqp://127.0.0.1:1"], /ECONNREFUSED[^\n]*\n$/u, 1],
  ["a broker that is down: Kafka", ["--broker", "kafka://127.0.0.1:1"], /ECONNREFUSED[^\n]*\n$/u, 1],
  ["a broker that is down: Redis", ["--broker", "redis://127.0.0.1:1"], /ECONNREFUSED[^\n]*\n$/u, 1],
];

describe("what is wrong", () => {
  it.concurrent.each(wrong)(
    "is said once and places nothing: %s",
    async (_name, options, message, exitCode) => {
      const cwd = await mkdtemp(join(folder, "wrong-"));

      const { code, output } = await shop(options, { cwd });

      assert.match(output, message);
      assert.doesNotMatch(output, /\n +at |wrong@|placing/u);
      assert.equal(code, exitCode);
      assert.equal((await readdir(cwd)).includes("oracle:"), false);
    },
    60_000,
  );
});
