/** The relay into a real broker, beside the broker's own client and a loop that publishes nothing. */
import { type RawBroker, inBatches } from "../publish/contest.ts";
import { type BenchDatabase, keyed, keyless } from "./database.ts";
import { type Contestant, type Line, atLeast, line } from "./measure.ts";
import { bareLoopRate, relayRate } from "./rate.ts";

export interface IntoBroker {
  readonly database: BenchDatabase;
  readonly broker: RawBroker;
  readonly rows: number;
  readonly contest: (
    contestants: readonly Contestant[],
  ) => Promise<{ readonly rate: (name: string) => number; readonly lines: Line[] }>;
}

const bare = "bare loop to nothing";

/** Rates, CPU of this process, and the relay's rate as a ratio of the slower of the bare loop and each way of the raw client. */
export async function intoBroker({ database, broker, rows, contest }: IntoBroker): Promise<Line[]> {
  const { name, adapter } = broker;
  const cpu = new Map<string, number[]>();
  /** Measures the CPU of this process too, and removes what was published. */
  const contestant = (who: string, run: () => Promise<number>): Contestant => ({
    name: who,
    async run() {
      const before = process.cpuUsage();
      const rate = await run();
      const { user, system } = process.cpuUsage(before);
      cpu.set(who, [...(cpu.get(who) ?? []), (user + system) / rows]);
      await broker.clear();
      return rate;
    },
  });
  const relays = [keyless, keyed].map((topic) =>
    contestant(`relay to ${name}, ${topic === keyed ? "key" : "no key"}`, () =>
      relayRate({ database, topic, rows, adapter }),
    ),
  );
  const bodies = Array.from({ length: rows }, () => JSON.stringify({ text: "x".repeat(290) }));
  const raws = broker.ways.map((way) =>
    contestant(`raw ${name}: ${way.name}`, async () => {
      const start = performance.now();
      await inBatches(rows, (first, count) => way.publish(bodies.slice(first, first + count)));
      return (rows / (performance.now() - start)) * 1_000;
    }),
  );
  // Clearing needs the topology that the adapter makes.
  for (const topic of [keyless, keyed]) await relayRate({ database, topic, rows: 1_000, adapter });
  const { lines, rate } = await contest([
    ...relays,
    ...raws,
    contestant(bare, () => bareLoopRate(database, keyless, rows)),
  ]);
  await broker.close();
  // Not compared with the lean way: nobody can do without the rest of a message who wants to know it again.
  const ratios = raws.slice(1).flatMap((raw) =>
    relays.map((relay) => {
      const slower = Math.min(rate(raw.name), rate(bare));
      const what = `${relay.name} / slower of bare loop and ${raw.name}`;
      return line(what, rate(relay.name) / slower, "x", atLeast(0.8));
    }),
  );
  const costs = Array.from(cpu, ([who, each]) =>
    line(`CPU of this process per message, ${who}`, Math.min(...each), "us"),
  );
  const note = broker.note === undefined ? [] : [{ what: broker.note, figure: "" }];
  return [...lines, ...costs, ...ratios, ...note];
}
