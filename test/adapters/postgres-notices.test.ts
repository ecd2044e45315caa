/** Notices between processes: heard where they come through, and not relied on where they do not. */
import assert from "node:assert/strict";
import { Client, Pool } from "pg";
import { type BusEvent, createBus, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { type PostgresOptions, postgres } from "postrider/postgres";
import { createFakeRuntime, eventually } from "postrider/testing";
import { afterAll, beforeAll, describe, it } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import type { OutboxStore } from "../../src/store.ts";
import { type PostgresTestDatabase, openPostgresDatabase } from "../support/postgres-database.ts";

let database: PostgresTestDatabase;
beforeAll(async () => {
  database = await openPostgresDatabase();
});
afterAll(() => database.close());

interface Open extends AsyncDisposable {
  readonly outbox: Required<OutboxStore>;
}

async function open(options: PostgresOptions = {}, runtime = nodeRuntime): Promise<Open> {
  const store = postgres({ url: database.url, ...options });
  if (options.schema !== undefined) await store.migrate();
  await store.connect({ runtime, emit: () => undefined });
  return {
    outbox: store.outbox as Required<OutboxStore>,
    [Symbol.asyncDispose]: () => store.close(),
  };
}

/** Listens until the test ends. */
function listen({ outbox }: Open): { heard: number; readonly over: Promise<boolean>; end(): void } {
  const ended = new AbortController();
  const listening = {
    heard: 0,
    over: outbox.listen(() => void (listening.heard += 1), ended.signal),
    end: () => ended.abort(),
  };
  listening.over.catch(() => undefined);
  return listening;
}

/** The only connection that waits for nothing but notices. */
const listeners = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";

describe("notices", () => {
  it("come from other stores on the same tables, and from no others", async () => {
    await using here = await open();
    await using there = await open();
    await using elsewhere = await open({ schema: "elsewhere" });
    const other = listen(elsewhere);
    const listening = listen(here);

    await eventually(async () => {
      await there.outbox.announce();
      assert.ok(listening.heard > 0);
    });
    listening.end();

    assert.equal(await listening.over, true);
    assert.equal(other.heard, 0);
    await eventually(async () => {
      const { rows } = await database.pool.query(`SELECT 1 ${listeners}`);
      assert.equal(rows.length, 1, "a connection is left");
    });
    other.end();
  });

  it("whose connection breaks are known to come no more", async () => {
    await using here = await open();
    const listening = listen(here);
    await eventually(async () => {
      await here.outbox.announce();
      assert.ok(listening.heard > 0);
    });

    await database.pool.query(`SELECT pg_terminate_backend(pid) ${listeners}`);

    await assert.rejects(listening.over);
  });

  it("that do not come through, as behind a pooler, are found out at the start", async () => {
    class Deaf extends Client {
      override emit(name: string | symbol, ...args: unknown[]): boolean {
        return name === "notification"
          ? false
          : (super.emit as (...all: unknown[]) => boolean)(name, ...args);
      }
    }
    const pool = new Pool({ connectionString: database.url, Client: Deaf });
    const runtime = createFakeRuntime();
    const store = postgres({ pool });
    await store.connect({ runtime, emit: () => undefined });

    const outcome = store.outbox.listen?.(() => undefined, new AbortController().signal);
    await eventually(async () => {
      await runtime.advance(1_000);
      const settled = await Promise.race([outcome, Promise.resolve("pending")]);
      assert.equal(settled, false);
    });

    await store.close();
    await pool.end();
  });

  it.each(["here", "elsewhere"])(
    "wake a relay %s when a transaction of the caller's own commits, however long that takes",
    async (where) => {
      const topic = defineTopic<number>(`noticed.${where}`);
      // The clock of the relay stands still: only a notice can make it look again.
      const runtime = createFakeRuntime();
      let relayed = 0;
      const relaying = createBus({
        adapter: memory(),
        store: postgres({ url: database.url }),
        runtime,
        onEvent: (event) => void (relayed += event.type === "relayed" ? event.count : 0),
      });
      await using elsewhere = createBus({ adapter: memory(), store: postgres({ url: database.url }) });
      const writing = where === "here" ? relaying : elsewhere;
      await relaying.declare({ groups: { g: [topic] } });
      await writing.connect();
      const relay = relaying.relay();
      await eventually(async () => {
        const { rows } = await database.pool.query(`SELECT 1 ${listeners}`);
        assert.equal(rows.length, 1);
      });
      // Lets what is under way go on; no time passes.
      const goOn = async (): Promise<void> => {
        for (let i = 0; i < 20; i += 1) {
          await nodeRuntime.sleep(5);
          await runtime.advance(0);
        }
      };
      await goOn();
      assert.ok(relay.health().active);

      const client = await database.pool.connect();
      await client.query("BEGIN");
      for (let n = 0; n < 20; n += 1) await writing.outbox(client).publish(topic, n);
      await goOn();
      const before = relayed;
      await client.query("COMMIT");
      client.release();
      await eventually(async () => {
        await runtime.advance(0);
        assert.equal(relayed, 20);
      });

      assert.equal(before, 0);
      const closed = relaying.close({ timeout: 0 });
      await runtime.advance(10_000);
      await closed;
    },
  );

  it("wake a relay that waits for the next time to look", async () => {
    const topic = defineTopic<number>("noticed");
    // The clock of the relay stands still: only a notice can make it look again.
    const runtime = createFakeRuntime();
    const events: BusEvent[] = [];
    await using writing = createBus({ adapter: memory(), store: postgres({ url: database.url }) });
    const relaying = createBus({
      adapter: memory(),
      store: postgres({ url: database.url }),
      runtime,
      onEvent: (event) => void events.push(event),
    });
    await relaying.declare({ groups: { g: [topic] } });
    relaying.relay();
    await eventually(async () => {
      const { rows } = await database.pool.query(`SELECT 1 ${listeners}`);
      assert.equal(rows.length, 1);
    });

    await eventually(async () => {
      await writing.transaction((_tx, outbox) => outbox.publish(topic, 1));
      // Lets what is under way go on; no time passes.
      await runtime.advance(0);
      assert.ok(events.some(({ type }) => type === "relayed"));
    });

    const closed = relaying.close({ timeout: 0 });
    await runtime.advance(10_000);
    await closed;
  });
});
