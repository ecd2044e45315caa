/**
 * What the outbox costs and how fast it empties, side by side with bare SQL and raw clients in one run.
 *
 * @example
 * npm run bench:outbox
 * npm run bench:outbox -- --only enqueue,relay,peers,brokers,backlog,latency --rounds 5 --backlog 1000000
 */
import { parseArgs } from "node:util";
import { memory } from "postrider/memory";
import { openRabbitmq } from "../publish/rabbitmq.ts";
import { openRedis } from "../publish/redis.ts";
import { intoBroker } from "./brokers.ts";
import { type BenchDatabase, keyed, openDatabase } from "./database.ts";
import { enqueue } from "./enqueue.ts";
import { latency } from "./latency.ts";
import { type Contestant, type Line, atLeast, interleave, line, table } from "./measure.ts";
import { pgBossRate, pgTransactionalOutboxRate } from "./peers.ts";
import { bareLoopRate, relayRate } from "./rate.ts";

const { values } = parseArgs({
  options: {
    only: { type: "string", default: "enqueue,relay,peers,brokers,backlog,latency" },
    rounds: { type: "string", default: "5" },
    rows: { type: "string", default: "20000" },
    backlog: { type: "string", default: "1000000" },
  },
});
const [rounds, rows, backlog] = [values.rounds, values.rows, values.backlog].map(Number) as [
  number,
  number,
  number,
];

type Part = (database: BenchDatabase) => Promise<Line[]>;

async function contest(
  contestants: readonly Contestant[],
): Promise<{ rate: (name: string) => number; lines: Line[] }> {
  // The first round is the compiler's.
  await interleave(contestants, 1);
  const rates = await interleave(contestants, rounds);
  return {
    rate: (name) => rates.get(name) ?? Number.NaN,
    lines: Array.from(rates, ([name, rate]) => line(name, rate, "msg/s")),
  };
}

const relay: Part = async (database) => {
  const nameOf = (order: string, instances: number): string =>
    `relay to memory, order ${order}, ${instances === 1 ? "1 instance" : `${instances} instances`}`;
  const modes = (["none", "key", "global"] as const).flatMap((order) =>
    [1, 4].map((instances): Contestant => {
      // One at a time takes its time.
      const count = order === "global" ? rows / 4 : rows;
      const run = { database, topic: keyed, instances, rows: count, adapter: memory, relay: { order } };
      return { name: nameOf(order, instances), run: () => relayRate(run) };
    }),
  );
  const { lines, rate } = await contest([
    ...modes,
    { name: "bare claim-and-delete loop", run: () => bareLoopRate(database, keyed, rows) },
    { name: "bare claim-and-delete loop, 4 of them", run: () => bareLoopRate(database, keyed, rows, 4) },
  ]);
  const goals = (["none", "key"] as const).map((order) =>
    line(`goal: relay to memory, order ${order}`, rate(nameOf(order, 1)), "msg/s", atLeast(10_000)),
  );
  return [...lines, ...goals];
};

/** Others' code on the same server. The last one is measured by time, in one round. */
const peers: Part = async (database) => {
  const own = (instances: number): Contestant => ({
    name: `relay to memory, order key, ${instances}`,
    run: () => relayRate({ database, topic: keyed, instances, rows, adapter: memory }),
  });
  const boss = (instances: number): Contestant => ({
    name: `pg-boss, fetch and complete, ${instances}`,
    run: () => pgBossRate({ database, rows, instances }),
  });
  const outbox = (instances: number): Contestant => ({
    name: `pg-transactional-outbox, polling, ${instances}`,
    run: () => pgTransactionalOutboxRate({ database, rows, instances }),
  });
  const { lines } = await contest([1, 4].flatMap((instances) => [own(instances), boss(instances)]));
  const slow = await interleave([outbox(1), outbox(4)], 1);
  return [...lines, ...Array.from(slow, ([name, rate]) => line(name, rate, "msg/s"))];
};

const brokers: Part = async (database) => {
  const lines: Line[] = [];
  for (const open of [openRabbitmq, openRedis])
    lines.push(...(await intoBroker({ database, broker: await open(), rows, contest })));
  return lines;
};

const million: Part = async (small) => {
  const big = await openDatabase("big");
  for (let left = backlog; left > 0; left -= 100_000) await big.fill(keyed, Math.min(left, 100_000));
  await big.pool.query("ANALYZE postrider.outbox");
  const names = [`with 1,000 rows waiting`, `with ${backlog.toLocaleString("en")} rows waiting`] as const;
  const shared = { topic: keyed, rows, adapter: memory };
  const { lines, rate } = await contest([
    { name: names[0], run: () => relayRate({ ...shared, database: small, portions: rows / 1_000 }) },
    { name: names[1], run: () => relayRate({ ...shared, database: big, beside: backlog }) },
  ]);
  await big.drop();
  return [...lines, line("many / few waiting", rate(names[1]) / rate(names[0]), "x", atLeast(0.8))];
};

const parts: Readonly<Record<string, Part>> = {
  enqueue: (database) => enqueue(database, rounds),
  relay,
  peers,
  brokers,
  backlog: million,
  latency,
};

const database = await openDatabase("main");
const lines: Line[] = [];
try {
  for (const name of values.only.split(",")) {
    const part = parts[name];
    if (part === undefined) throw new Error(`--only ${name}: know ${Object.keys(parts).join(", ")}`);
    const found = await part(database);
    process.stdout.write(`${table(found)}\n\n`);
    lines.push(...found);
    await database.clear();
  }
} finally {
  await database.drop();
}
const goals = lines.filter(({ goal }) => goal !== undefined);
process.stdout.write(`Goals\n${table(goals)}\n`);
