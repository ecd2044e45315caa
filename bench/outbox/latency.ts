/** From the answer to COMMIT until the broker has the message. */
import { createBus } from "postrider";
import { memory } from "postrider/memory";
import { postgres } from "postrider/postgres";
import { setTimeout as sleep } from "node:timers/promises";
import { type BenchDatabase, keyed, payloadOf } from "./database.ts";
import { type Line, atMost, line, quantile } from "./measure.ts";

/** `remote`: the relay is on another bus, which hears of the commit only through the database. */
interface Setting {
  readonly name: string;
  readonly remote: boolean;
  /** Transactions per second, spread evenly; `Infinity`: as fast as eight connections can. */
  readonly rate: number;
  readonly seconds: number;
}

async function measure(
  database: BenchDatabase,
  setting: Setting,
): Promise<{ delays: number[]; rate: number }> {
  const { remote, rate, seconds } = setting;
  const published = new Map<string, number>();
  const onEvent = (event: { readonly type: string; readonly messageId?: string }): void => {
    if (event.type === "published") published.set(event.messageId ?? "", performance.now());
  };
  const options = () => ({ adapter: memory(), store: postgres({ url: database.url }), onEvent });
  await using relaying = createBus(options());
  await using writing = remote ? createBus(options()) : undefined;
  const writer = writing ?? relaying;
  await relaying.declare({ groups: { bench: [keyed] } });
  await writer.connect();
  const relay = relaying.relay({ order: "key" });
  while (!relay.health().active) await sleep(1);

  const committed = new Map<string, number>();
  const end = performance.now() + seconds * 1_000;
  let n = 0;
  const one = async (): Promise<void> => {
    const client = await database.pool.connect();
    await client.query("BEGIN");
    await client.query("INSERT INTO orders (note) VALUES ($1)", [`order ${n}`]);
    const { id } = await writer.outbox(client).publish(keyed, payloadOf((n += 1)));
    await client.query("COMMIT");
    committed.set(id, performance.now());
    client.release();
  };
  const lane = async (everyMs: number): Promise<void> => {
    for (
      let due = performance.now() + Math.random() * everyMs;
      Math.max(due, performance.now()) < end;
      due += everyMs
    ) {
      if (due > performance.now()) await sleep(due - performance.now());
      await one();
    }
  };
  const lanes = Number.isFinite(rate) ? Math.max(1, Math.min(8, Math.floor(rate / 20))) : 8;
  await Promise.all(
    Array.from({ length: lanes }, () => lane(Number.isFinite(rate) ? (lanes * 1_000) / rate : 0)),
  );
  while (published.size < committed.size) await sleep(5);
  const delays = Array.from(committed, ([id, at]) => Math.max(0, (published.get(id) ?? Number.NaN) - at));
  return { delays, rate: committed.size / seconds };
}

export async function latency(database: BenchDatabase): Promise<Line[]> {
  const lines: Line[] = [];
  for (const remote of [false, true]) {
    const where = remote ? "relay elsewhere" : "relay in the same process";
    // All that this machine commits with eight connections, while it relays; half of it is half load.
    const full = await measure(database, { name: "full", remote, rate: Infinity, seconds: 3 });
    const settings: Setting[] = [
      { name: "idle, 20 tx/s", remote, rate: 20, seconds: 10 },
      { name: `half load, ${Math.round(full.rate / 2)} tx/s`, remote, rate: full.rate / 2, seconds: 5 },
    ];
    for (const setting of settings) {
      const { delays } = await measure(database, setting);
      const goal = setting.rate === 20 ? atMost(10) : undefined;
      lines.push(
        line(`commit to published, ${where}, ${setting.name}: p50`, quantile(delays, 0.5), "ms", goal),
      );
      lines.push(line(`commit to published, ${where}, ${setting.name}: p99`, quantile(delays, 0.99), "ms"));
    }
  }
  return lines;
}
