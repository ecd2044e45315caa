import { execFile, execFileSync, spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { allBrokerNames, broker } from "../scripts/brokers/index.ts";

// Instances of its own, beside those that other tests use at the same time.
const folder = mkdtempSync(join(tmpdir(), "postrider-brokers-test-"));
const ports = { RABBITMQ: 22672, KAFKA: 22092, REDIS: 22379, POSTGRES: 22432, MARIADB: 22306 };

beforeAll(() => {
  chmodSync(folder, 0o755);
  vi.stubEnv("POSTRIDER_TEST_MYSQL_URL", undefined);
  vi.stubEnv("POSTRIDER_BROKERS_DIR", folder);
  for (const [name, port] of Object.entries(ports)) {
    vi.stubEnv(`POSTRIDER_${name}_PORT`, `${port}`);
    vi.stubEnv(`POSTRIDER_TEST_${name}_URL`, undefined);
  }
});

afterAll(async () => {
  await Promise.all(allBrokerNames.map((name) => broker(name).down()));
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

describe("a server of our own", () => {
  test("is started once, however many processes ask for it", async () => {
    const both = await Promise.all([cli("up", "redis"), cli("up", "redis")]);
    const later = await cli("up", "redis");

    expect(both.map((run) => run.code)).toEqual([0, 0]);
    expect(both.filter((run) => run.stderr.includes("redis: starting"))).toHaveLength(1);
    expect(later).toEqual({ code: 0, stdout: "redis  redis://127.0.0.1:22379\n", stderr: "" });
    expect(await redis("INFO server")).toContain(`process_id:${broker("redis").pid()}\r\n`);
  });

  test("keeps its data over a crash", async () => {
    const server = broker("redis");
    await server.up();
    const before = server.pid();
    await redis("SET survivor yes");

    await server.kill();
    expect(server.pid()).toBeUndefined();
    await expect(redis("PING")).rejects.toThrow("ECONNREFUSED");
    await server.start();

    expect(server.pid()).not.toBe(before);
    expect(await redis("GET survivor")).toContain("yes");
  });

  test("keeps its data over `down --keep`, but not over `down`", async () => {
    const server = broker("redis");
    await server.up();
    await redis("SET survivor yes");

    await cli("down", "--keep", "redis");
    await server.up();
    const kept = await redis("GET survivor");
    await cli("down", "redis");
    await server.up();
    const lost = await redis("GET survivor");

    expect(kept).toContain("yes");
    expect(lost).toBe("$-1\r\n");
  });

  test("is silent while paused and answers again after `up`", async () => {
    const server = broker("redis");
    await server.up();

    await server.pause();
    const paused = await server.status();
    await expect(redis("PING")).rejects.toThrow("no answer");
    await server.up();

    expect(paused.state).toBe("paused");
    expect(await redis("PING")).toBe("+PONG\r\n");
  });

  test("is never confused with a stranger that has its old pid", async () => {
    const server = broker("redis");
    await server.up();
    const record = join(folder, "redis", "instance.json");
    const stale = JSON.parse(await readFile(record, "utf8")) as { server: { pid: number } };
    await server.kill();
    const stranger = spawn("sleep", ["60"]);
    onTestFinished(() => void stranger.kill());
    stale.server.pid = stranger.pid ?? 0;
    await writeFile(record, JSON.stringify(stale));

    await server.kill();
    await server.pause();
    const { state } = await server.status();
    await server.down();

    expect(state).toBe("down");
    const strangerState = execFileSync("ps", ["-o", "stat=", "-p", `${stranger.pid}`], { encoding: "utf8" });
    expect(strangerState).toMatch(/^S/); // asleep, as it was: neither dead nor stopped
  });

  test.each([0, 1, -1, -4711])("is never stopped by a record that says pid %i", async (pid) => {
    await mkdir(join(folder, "redis"), { recursive: true });
    await broker("redis").down({ keep: true });
    const record = { port: ports.REDIS, server: { pid, started: "" }, helper: { pid, started: "" } };
    await writeFile(join(folder, "redis", "instance.json"), JSON.stringify(record));
    const kill = vi.spyOn(process, "kill");
    onTestFinished(() => kill.mockRestore());

    await broker("redis").down();

    expect(kill).not.toHaveBeenCalled();
  });

  test("names the port and the variable when another process has the port", async () => {
    await broker("redis").down();
    const other = createServer().listen(ports.REDIS, "127.0.0.1");
    onTestFinished(() => void other.close());

    const run = await cli("up", "redis");

    expect(run).toMatchObject({ code: 1, stdout: "" });
    expect(run.stderr).toMatch(/redis: port 22379 .* taken .*POSTRIDER_REDIS_PORT/);
  });

  test("shows the end of its log when it does not start", async () => {
    await broker("redis").down();
    const data = join(folder, "redis", "data");
    await mkdir(data, { recursive: true });
    await writeFile(join(data, "appendonlydir"), "a file where a folder should be");
    onTestFinished(() => rm(data, { recursive: true }));

    const attempt = broker("redis").up();

    await expect(attempt).rejects.toThrow(/redis: ended before it was ready.*server\.log:\n.*appendonlydir/s);
  });
});

test("kills, restarts and leaves nothing of the other servers behind", { timeout: 120_000 }, async () => {
  const names = ["rabbitmq", "kafka", "postgres", "mariadb"] as const;
  const servers = names.map((name) => broker(name));

  await Promise.all(servers.map((server) => server.up()));
  await Promise.all(servers.map((server) => server.kill()));
  await Promise.all(servers.map((server) => server.start()));
  const states = await Promise.all(servers.map((server) => server.status()));
  const metadata = await exchange(
    ports.KAFKA + 2,
    Buffer.from("0000000e0003000100000001000000000000", "hex"),
  );
  await Promise.all(servers.map((server) => server.down()));

  expect(states.map(({ state }) => state)).toEqual(names.map(() => "up"));
  // One broker, id 1, host as text, port: clients of the proxied listener are sent to the proxy.
  expect(metadata.subarray(8, 16).toString("hex")).toBe("0000000100000001");
  expect(metadata.readInt32BE(27)).toBe(broker("kafka").proxied?.advertised);
  for (const first of [ports.RABBITMQ, ports.KAFKA, ports.POSTGRES, ports.MARIADB]) {
    for (const port of [first, first + 1, first + 2]) {
      await expect(exchange(port, Buffer.from(""))).rejects.toThrow("ECONNREFUSED");
    }
  }
  expect(processesWorkingBelow(folder)).toEqual([]);
  expect(names.filter((name) => existsSync(join(folder, name)))).toEqual([]);
});

test("starts again after a kill by hand that left a busy process behind", { timeout: 30_000 }, async () => {
  const server = broker("postgres");
  // Not a child of ours: nobody may be quick to clear it away once it is dead.
  await cli("up", "postgres");
  const client = new Client(server.url);
  client.on("error", () => {}); // its connection will break
  await client.connect();
  await client.query("create table survivor as select 1");
  const isBusy = new Promise((resolve) => client.once("notice", resolve));
  const work = "raise notice 'busy'; perform count(*) from generate_series(1, 1000000000);";
  const query = client.query(`do $$ begin ${work} end $$`).catch(() => "broken");
  await isBusy;

  process.kill(server.pid() ?? 0, "SIGKILL");
  await vi.waitUntil(() => server.pid() === undefined);
  await server.up();

  const again = new Client(server.url);
  await again.connect();
  const { rowCount } = await again.query("select * from survivor");
  await again.end();
  expect(rowCount).toBe(1);
  expect(await query).toBe("broken");
});

test("a given server is used as it is and is not ours to kill", async () => {
  vi.stubEnv("POSTRIDER_TEST_REDIS_URL", "redis://example.invalid:1");
  onTestFinished(() => void vi.stubEnv("POSTRIDER_TEST_REDIS_URL", undefined));
  const server = broker("redis");

  await server.up();
  await server.down();

  expect(server.url).toBe("redis://example.invalid:1");
  for (const verb of ["kill", "stop", "start", "pause", "resume"] as const) {
    await expect(server[verb]()).rejects.toThrow("given by POSTRIDER_TEST_REDIS_URL: not ours");
  }
});

describe("the command", () => {
  test.each([
    [[]],
    [["launch"]],
    [["up", "mongodb"]],
    [["up", "--fast"]],
    [["up", "--keep"]],
    [["toString"]],
  ])("exits 2 and explains itself when called as %j", async (args) => {
    const run = await cli(...args);

    expect(run).toMatchObject({ code: 2, stdout: "" });
    expect(run.stderr).toContain("usage:");
  });

  test("names a missing program and the command that installs it", async () => {
    await broker("redis").down();
    const path = process.env["PATH"];
    vi.stubEnv("PATH", dirname(process.execPath));
    onTestFinished(() => void vi.stubEnv("PATH", path));

    const run = await cli("up", "redis");

    expect(run).toMatchObject({ code: 1, stdout: "" });
    expect(run.stderr).toMatch(/redis-server not found.*(apt-get|brew) install .*redis/);
  });

  test("prints a row for each server with its state", async () => {
    await broker("redis").up();

    const { code, stdout } = await cli("status", "redis", "rabbitmq");

    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^name +version +url +pid +state\nredis +\d+\.\S+ +redis:\S+ +\d+ +up\nrabbitmq .* down\n$/,
    );
  });
});

type Run = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

function cli(...args: readonly string[]): Promise<Run> {
  const main = join(import.meta.dirname, "../scripts/brokers/main.ts");
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [main, ...args], (_error, stdout, stderr) => {
      resolve({ code: child.exitCode, stdout, stderr });
    });
  });
}

async function redis(command: string): Promise<string> {
  return (await exchange(ports.REDIS, Buffer.from(`${command}\r\n`))).toString("latin1");
}

/** One request, and whatever comes back first. */
function exchange(port: number, request: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: "127.0.0.1" }, () => socket.write(request));
    socket.setTimeout(500, () => socket.destroy(new Error("no answer")));
    socket.once("error", reject);
    socket.once("data", (answer) => {
      socket.destroy();
      resolve(answer);
    });
  });
}

function processesWorkingBelow(path: string): readonly string[] {
  if (!existsSync("/proc")) return []; // not on this system
  const pids = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry));
  return pids.filter((pid) => {
    try {
      return readlinkSync(`/proc/${pid}/cwd`).startsWith(path);
    } catch {
      return false; // ended meanwhile
    }
  });
}
