/**
 * What publishing costs, side by side with the brokers' own clients in one run: messages per second, and CPU of this process.
 * All publish the same payloads in batches of 500, two at once, and wait for every confirmation.
 *
 * @example
 * npm run bench:publish
 * npm run bench:publish -- --only rabbitmq,redis,kafka --rounds 7 --messages 20000
 */
import { parseArgs } from "node:util";
import { type Bus, type Topic, createBus, defineTopic } from "postrider";
import { quantile } from "../outbox/measure.ts";
import { type Cost, type Payload, type RawBroker, measure } from "./contest.ts";
import { openKafka } from "./kafka.ts";
import { openRabbitmq } from "./rabbitmq.ts";
import { openRedis } from "./redis.ts";

const { values } = parseArgs({
  options: {
    only: { type: "string", default: "rabbitmq,redis,kafka" },
    rounds: { type: "string", default: "5" },
    messages: { type: "string", default: "20000" },
  },
});
const [rounds, messages] = [values.rounds, values.messages].map(Number) as [number, number];

const brokers: Readonly<Record<string, () => Promise<RawBroker>>> = {
  rabbitmq: openRabbitmq,
  redis: openRedis,
  kafka: openKafka,
};

const keyless = defineTopic<Payload>("bench.none");
const keyed = defineTopic<Payload>("bench.key", { key: ({ key }) => key });

interface Contestant {
  readonly name: string;
  readonly send: (payloads: readonly Payload[]) => Promise<unknown>;
}

function ours(bus: Bus): Contestant[] {
  const all = async (topic: Topic<Payload, Payload>, payloads: readonly Payload[]): Promise<void> => {
    const failed = (await bus.publishAll(topic, payloads)).find(({ status }) => status !== "accepted");
    if (failed !== undefined && "error" in failed) throw failed.error;
  };
  return [
    { name: "publishAll", send: (payloads) => all(keyless, payloads) },
    { name: "publishAll, key", send: (payloads) => all(keyed, payloads) },
    {
      name: "publish",
      send: (payloads) => Promise.all(payloads.map((payload) => bus.publish(keyless, payload))),
    },
  ];
}

/** Rounds take turns, every second one backwards; the first is the compiler's. */
async function contest(
  contestants: readonly Contestant[],
  clear: () => Promise<void>,
): Promise<Map<string, Cost>> {
  const costs = new Map(contestants.map(({ name }) => [name, [] as Cost[]]));
  for (let round = 0; round <= rounds; round += 1) {
    for (const { name, send } of round % 2 === 0 ? contestants : contestants.toReversed()) {
      const cost = await measure(messages, send);
      if (round > 0) costs.get(name)?.push(cost);
      await clear();
    }
  }
  const median = (all: readonly Cost[], what: keyof Cost): number =>
    quantile(
      all.map((cost) => cost[what]),
      0.5,
    );
  return new Map(
    Array.from(costs, ([name, all]) => [
      name,
      { perSecond: median(all, "perSecond"), cpuUs: median(all, "cpuUs") },
    ]),
  );
}

function print(cells: readonly string[]): void {
  const [broker = "", who = "", ...figures] = cells;
  process.stdout.write(
    `${broker.padEnd(10)}${who.padEnd(38)}${figures.map((figure) => figure.padStart(12)).join("")}\n`,
  );
}

print(["broker", "who", "msg/s", "CPU us", "ratio*"]);
for (const name of values.only.split(",")) {
  const open = brokers[name];
  if (open === undefined) throw new Error(`--only ${name}: know ${Object.keys(brokers).join(", ")}`);
  const broker = await open();
  await using bus = createBus({ adapter: broker.adapter() });
  await bus.declare({ groups: { bench: [keyless, keyed] } });
  const raw = broker.ways.map((way) => ({
    name: `raw: ${way.name}`,
    send: (payloads: readonly Payload[]) => way.publish(payloads.map((payload) => JSON.stringify(payload))),
  }));
  const costs = await contest([...raw, ...ours(bus)], () => broker.clear());
  // The first way leaves out most of a message.
  const references = raw.slice(1).map(({ name }) => costs.get(name)?.perSecond ?? Number.NaN);
  for (const [who, { perSecond, cpuUs }] of costs)
    print([
      broker.name,
      who,
      Math.round(perSecond).toLocaleString("en"),
      cpuUs.toFixed(1),
      references.map((reference) => (perSecond / reference).toFixed(2)).join(" / "),
    ]);
  if (broker.note !== undefined) process.stdout.write(`${broker.note}\n`);
  await bus.close();
  await broker.close();
}
process.stdout.write("* to the raw client with the same message, in each way listed\n");
