/** What a message costs the transaction that sends it. */
import type { PoolClient } from "pg";
import { createBus } from "postrider";
import { memory } from "postrider/memory";
import { postgres } from "postrider/postgres";
import { type BenchDatabase, keyed, keyless, payloadOf } from "./database.ts";
import { type Line, atMost, interleave, line, timed } from "./measure.ts";

type Work = (client: PoolClient, n: number) => Promise<unknown>;

const business: Work = (client, n) => client.query("INSERT INTO orders (note) VALUES ($1)", [`order ${n}`]);

/** Milliseconds per transaction: the business, then `work`. */
async function transactions(database: BenchDatabase, count: number, work: Work): Promise<number> {
  const client = await database.pool.connect();
  const ms = await timed(async () => {
    for (let n = 0; n < count; n += 1) {
      await client.query("BEGIN");
      await business(client, n);
      await work(client, n);
      await client.query("COMMIT");
    }
  });
  client.release();
  return ms / count;
}

export async function enqueue(database: BenchDatabase, rounds: number): Promise<Line[]> {
  await using bus = createBus({ adapter: memory(), store: postgres({ pool: database.pool }) });
  await bus.connect();
  const count = 500;
  const insert: Work = (client, n) => {
    const payload = payloadOf(n);
    return client.query("INSERT INTO bare (topic, key, body) VALUES ($1, $2, $3)", [
      "bench",
      payload.key,
      JSON.stringify(payload),
    ]);
  };
  const run = (name: string, work: Work) => ({ name, run: () => transactions(database, count, work) });
  const contestants = [
    run("no message", () => Promise.resolve()),
    run("bare INSERT", insert),
    run("outbox, no key", (client, n) => bus.outbox(client).publish(keyless, payloadOf(n))),
    run("outbox, key", (client, n) => bus.outbox(client).publish(keyed, payloadOf(n))),
  ];
  // Plans, pools and the compiler are warm before anything counts.
  await interleave(contestants, 1);
  const ms = await interleave(contestants, rounds);
  await database.clear();
  const bare = ms.get("bare INSERT") ?? Number.NaN;
  return [
    ...Array.from(ms, ([name, each]) => line(`transaction with ${name}`, each * 1_000, "us")),
    line("outbox, no key / bare INSERT", (ms.get("outbox, no key") ?? Number.NaN) / bare, "x", atMost(1.5)),
    line("outbox, key / bare INSERT", (ms.get("outbox, key") ?? Number.NaN) / bare, "x", atMost(1.5)),
  ];
}
