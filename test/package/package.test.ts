/** What is published works in an empty project, with none of the optional peers installed. */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const run = promisify(execFile);

const program = `
import { createBus, defineTopic, exponential, type Message } from "postrider";
import { memory } from "postrider/memory";

const OrderPlaced = defineTopic<{ orderId: string; total: number }>("order.placed", { key: (order) => order.orderId });

const bus = createBus({ adapter: memory(), source: "shop" });
const messages: Message[] = [];
const done = Promise.withResolvers<void>();
await bus.consume(
  OrderPlaced,
  { group: "billing", order: "key", retry: { maxAttempts: 3, backoff: exponential({ min: "1ms", max: "5ms" }) } },
  async (order, ctx) => {
    if (ctx.attempt < 2) throw new Error("once");
    messages.push(ctx.message);
    if (order.total === 9) done.resolve();
  },
);
const receipt = await bus.publish(OrderPlaced, { orderId: "1", total: 9 });
await done.promise;
await bus.close();
console.log(messages.length === 1 && messages[0]?.id === receipt.id ? "ok" : "wrong");
`;

const tsconfig = {
  compilerOptions: { target: "es2024", module: "nodenext", strict: true, skipLibCheck: true, outDir: "out" },
  files: ["program.mts"],
};

describe("the published package", () => {
  let project: string;
  let tarball: string;

  beforeAll(async () => {
    project = await mkdtemp(join(tmpdir(), "postrider-package-"));
    await run("npm", ["run", "build"], { cwd: root });
    await run("npm", ["pack", "--pack-destination", project], { cwd: root });
    tarball = (await readdir(project)).find((name) => name.endsWith(".tgz")) ?? "";
    await writeFile(
      join(project, "package.json"),
      JSON.stringify({ name: "empty", private: true, type: "module" }),
    );
    await run("npm", ["install", "--omit=peer", `./${tarball}`], { cwd: project });
  }, 300_000);

  afterAll(() => rm(project, { recursive: true, force: true }));

  it("installs without any peer", async () => {
    const installed = await readdir(join(project, "node_modules"));

    expect(installed).toContain("postrider");
    for (const peer of ["amqplib", "kafkajs", "ioredis", "pg", "mysql2"])
      expect(installed).not.toContain(peer);
  });

  it("lets a small TypeScript program type-check and run", async () => {
    await writeFile(join(project, "program.mts"), program);
    await writeFile(join(project, "tsconfig.json"), JSON.stringify(tsconfig));

    await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", project], {
      cwd: project,
    });
    const { stdout } = await run(process.execPath, ["out/program.mjs"], { cwd: project });

    expect(stdout).toBe("ok\n");
  }, 60_000);

  it("says what to install when a peer is missing", async () => {
    const script = `
      import { createBus } from "postrider";
      for (const adapter of ["amqp://127.0.0.1:1", "kafka://127.0.0.1:1", "redis://127.0.0.1:1"]) {
        const bus = createBus({ adapter });
        await bus.connect().catch((error) => console.log(error.code, error.message));
        await bus.close();
      }`;
    await writeFile(join(project, "missing.mjs"), script);

    const { stdout } = await run(process.execPath, ["missing.mjs"], { cwd: project });

    for (const peer of ["amqplib", "kafkajs", "ioredis"]) {
      expect(stdout).toContain(`ERR_DEPENDENCY "${peer}" is not installed. Run: npm install ${peer}`);
    }
  }, 60_000);

  it("has the command, which needs a driver only for the database it is given", async () => {
    const command = join(project, "node_modules/.bin/postrider");

    const up = await run(command, ["migrate", "up", "--database", "app.db"], { cwd: project });
    const missing = run(command, ["migrate", "up", "--database", "postgres://127.0.0.1:1/x"], {
      cwd: project,
    });

    expect(up.stdout).toMatch(/^version 0 -> \d+\n$/u);
    await expect(missing).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('"pg" is not installed. Run: npm install pg') as string,
    });
  }, 60_000);

  it("has every sub-path it promises", async () => {
    const { exports } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as {
      exports: Record<string, unknown>;
    };
    const paths = Object.keys(exports).filter((path) => path !== "./package.json");
    const script = paths.map((path) => `await import("postrider${path.slice(1)}");`).join("\n");
    await writeFile(join(project, "paths.mjs"), script);

    await expect(run(process.execPath, ["paths.mjs"], { cwd: project })).resolves.toMatchObject({
      stderr: "",
    });
  }, 60_000);
});
