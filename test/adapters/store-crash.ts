/** What is left when a store's server is killed in the middle of everything: nothing is lost, nothing is done twice. */
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Bus, createBus, defineTopic } from "postrider";
import type { TestDatabase } from "postrider/testing";
import { createFakeRuntime, eventually } from "postrider/testing";
import { afterAll, beforeAll, it, vi } from "vitest";
import { type Broker, broker } from "../../scripts/brokers/index.ts";
import { nodeRuntime } from "../../src/clock.ts";

interface CrashOptions {
  readonly name: "postgres" | "mariadb";
  /** Where `scripts/brokers` looks for its port, and for a server that somebody else runs. */
  readonly variables: { readonly port: string; readonly url: string };
  readonly port: number;
  readonly open: (options: { readonly server: string }) => Promise<TestDatabase>;
}

/** Registers the test. Answers the server that it kills, for tests beside it. */
export function crashes({ name, variables, port, open }: CrashOptions): () => Broker {
  // A server of its own, beside the one that other tests use at the same time.
  const folder = mkdtempSync(join(tmpdir(), `postrider-${name}-crash-`));
  let server: Broker;

  beforeAll(async () => {
    chmodSync(folder, 0o755);
    vi.stubEnv("POSTRIDER_BROKERS_DIR", folder);
    vi.stubEnv(variables.port, `${port}`);
    vi.stubEnv(variables.url, undefined);
    server = broker(name);
    await server.up();
  }, 60_000);

  afterAll(async () => {
    await server.down();
    vi.unstubAllEnvs();
    rmSync(folder, { recursive: true, force: true });
  }, 60_000);

  it("what was committed is handled once, and nothing else is", { timeout: 120_000 }, async () => {
    await killWhileWriting(server, await open({ server: server.url }));
  });
  return () => server;
}

const topic = defineTopic<string>("letters", { key: (id) => id.slice(0, 1) });

/** Writes rows with a message each until it is told to stop. Whether one was committed, only the database knows. */
async function write(database: TestDatabase, bus: Bus, name: string, stopped: () => boolean): Promise<void> {
  for (let n = 0; !stopped(); n += 1) {
    const id = `${name}${n}`;
    try {
      const transaction = await database.begin();
      await database.addEffect(transaction.handle, `sent ${id}`);
      await bus.outbox(transaction.handle).publish(topic, id);
      if (n % 10 === 9) await transaction.rollback();
      else await transaction.commit();
    } catch {
      await nodeRuntime.sleep(20);
    }
  }
}

async function killWhileWriting(server: Broker, database: TestDatabase): Promise<void> {
  const name = `memory:crash-${process.pid}`;
  const buses = await Promise.all(
    [1, 2].map(async () =>
      createBus({ adapter: name, store: await database.store(), onEvent: () => undefined }),
    ),
  );
  const [bus] = buses;
  assert.ok(bus !== undefined);
  for (const each of buses) {
    const options = { group: "g", once: "transaction", retry: { maxAttempts: 50 } } as const;
    await each.consume(topic, options, async (id, { tx }) => {
      await database.addEffect(tx, `done ${id}`);
    });
    each.relay();
  }
  const runtime = createFakeRuntime({ seed: 7 });

  let stop = false;
  const writing = Promise.all(["a", "b", "c", "d"].map((writer) => write(database, bus, writer, () => stop)));
  for (let kill = 0; kill < 5; kill += 1) {
    await nodeRuntime.sleep(200 + runtime.random("kill") * 600);
    await server.kill();
    await nodeRuntime.sleep(runtime.random("kill") * 300);
    await server.start();
  }
  stop = true;
  await writing;

  const effects = async (kind: string): Promise<string[]> =>
    (await database.effects()).filter((effect) => effect.startsWith(kind)).map((effect) => effect.slice(5));
  await eventually(async () => {
    const [sent, done] = [await effects("sent"), await effects("done")];
    assert.deepEqual(done.toSorted(), sent.toSorted());
  }, 60_000);
  await eventually(() => assert.ok(buses.every((each) => each.health().checks["store"]?.status === "up")));
  assert.ok((await effects("sent")).length > 100);
  await Promise.all(buses.map((each) => each.close()));
  await database.close();
}
