/** How fast rows leave: the relay, and what stands against it. */
import { type Bus, type Relay, type Topic, createBus } from "postrider";
import { postgres } from "postrider/postgres";
import type { Adapter } from "postrider/spi";
import { type BenchDatabase, type Payload } from "./database.ts";
import { timed } from "./measure.ts";

export interface RelayRun {
  readonly database: BenchDatabase;
  readonly topic: Topic<Payload, Payload>;
  readonly adapter: () => Adapter;
  readonly rows: number;
  /** Rows that are there besides, and stay. */
  readonly beside?: number | undefined;
  readonly instances?: number | undefined;
  /** In how many portions: each is added when the one before has left. Default 1. */
  readonly portions?: number | undefined;
  readonly relay?: Parameters<Bus["relay"]>[0];
}

/** Rows per second from the first wake-up until `rows` of them are published and deleted. */
export async function relayRate(run: RelayRun): Promise<number> {
  const { database, topic, adapter, rows, instances = 1, portions = 1 } = run;
  let relayed = 0;
  let reached = { count: Infinity, resolve: (): void => undefined };
  const buses = Array.from({ length: instances }, () =>
    createBus({
      adapter: adapter(),
      store: postgres({ url: database.url }),
      onEvent(event) {
        if (event.type === "relayed" && (relayed += event.count) >= reached.count) reached.resolve();
        if (event.type === "relayFailed" || event.type === "relayParked") throw event.error;
      },
    }),
  );
  await Promise.all(buses.map((bus) => bus.declare({ groups: { bench: [topic] } })));
  const relays: Relay[] = [];
  const start = async (): Promise<void> => {
    for (const bus of buses) relays.push(bus.relay(run.relay ?? { order: "key" }));
    await until(() => relays.some((relay) => relay.health().active));
  };
  const left = async (count: number): Promise<void> => {
    const { promise, resolve } = Promise.withResolvers<void>();
    reached = { count: relayed + count, resolve };
    for (const relay of relays) relay.wake();
    await promise;
  };

  // With rows that stay it is their head that is measured; started before, it would be gone already.
  let ms = 0;
  if (run.beside !== undefined) {
    ms = await timed(async () => {
      await start();
      await left(rows - relayed);
    });
  } else {
    await start();
    for (let portion = 0; portion < portions; portion += 1) {
      await database.fill(topic, rows / portions);
      ms += await timed(() => left(rows / portions));
    }
  }
  await Promise.all(buses.map((bus) => bus.close()));
  return (rows / ms) * 1_000;
}

/** The loop everybody writes first: lock some rows, delete them, commit. A connection for each, and no order kept. */
export async function bareLoopRate(
  database: BenchDatabase,
  topic: Topic<Payload, Payload>,
  rows: number,
  loops = 1,
): Promise<number> {
  await database.clear();
  await database.fill(topic, rows);
  const loop = async (): Promise<void> => {
    const client = await database.pool.connect();
    for (let found = true; found;) {
      await client.query("BEGIN");
      const { rows: page } = await client.query<{ id: string }>(
        "SELECT * FROM postrider.outbox ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED",
      );
      await client.query("DELETE FROM postrider.outbox WHERE id = ANY($1::bigint[])", [
        page.map(({ id }) => id),
      ]);
      await client.query("COMMIT");
      found = page.length > 0;
    }
    client.release();
  };
  const ms = await timed(() => Promise.all(Array.from({ length: loops }, loop)));
  return (rows / ms) * 1_000;
}

async function until(done: () => boolean): Promise<void> {
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 1));
}
