/**
 * Outbox, broker, inbox and effect, while relay, consumer and PostgreSQL are killed at random points of the run. Ends with
 * a table, and with an error unless nothing was lost, invented, done twice or out of order.
 *
 * @example
 * npm run soak:outbox
 * npm run soak:outbox -- --messages 2000 --relay 5 --consumer 5 --postgres 2 --broker redis --seed 7
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { createFakeRuntime } from "postrider/testing";
import { broker } from "../../brokers/index.ts";
import { removeTopology } from "./broker.ts";
import { type Application, openApplication } from "./database.ts";
import type { BrokerChoice, Place } from "./shared.ts";
import { startVictim } from "./victim.ts";

const { values } = parseArgs({
  options: {
    messages: { type: "string", default: "20000" },
    relay: { type: "string", default: "50" },
    consumer: { type: "string", default: "50" },
    postgres: { type: "string", default: "20" },
    keys: { type: "string", default: "50" },
    broker: { type: "string", default: "rabbitmq" },
    seed: { type: "string", default: "1" },
    port: { type: "string", default: "22632" },
  },
});
const [messages, keys, seed] = [values.messages, values.keys, values.seed].map(Number) as [
  number,
  number,
  number,
];
const runtime = createFakeRuntime({ seed });
const random = (stream: string) => () => runtime.random(stream);

const messageBroker = broker(values.broker as BrokerChoice);
await messageBroker.up();
// A PostgreSQL of this run's own: others use theirs at the same time.
const folder = mkdtempSync(join(tmpdir(), "postrider-soak-"));
chmodSync(folder, 0o755);
Object.assign(process.env, { POSTRIDER_BROKERS_DIR: folder, POSTRIDER_POSTGRES_PORT: values.port });
delete process.env["POSTRIDER_TEST_POSTGRES_URL"];
const postgres = broker("postgres");
await postgres.up();

const place: Place = {
  broker: values.broker as BrokerChoice,
  brokerUrl: messageBroker.url,
  databaseUrl: postgres.url,
};
await removeTopology(place);
const started = performance.now();
const application = await openApplication(place);
const relay = startVictim("relay", place);
const consumer = startVictim("consumer", place);

/** Kills at random shares of the run; what has to wait for its turn is killed as soon as it is up again. */
async function killing(name: "relay" | "consumer" | "postgres", kill: () => Promise<void>): Promise<number> {
  const next = random(name);
  const points = Array.from({ length: Number(values[name]) }, () => next() * messages * 0.9).toSorted(
    (a, b) => a - b,
  );
  let killed = 0;
  for (const point of points) {
    while ((await application.progress()).handled < point) await sleep(20);
    await sleep(next() * 50);
    await kill();
    killed += 1;
  }
  return killed;
}

async function killPostgres(): Promise<void> {
  await postgres.kill();
  await postgres.start();
}

async function settled({ progress }: Application): Promise<void> {
  // A loss must end the run, too: it stands still for two minutes.
  let last = await progress();
  for (let still = 0; still < 1_200 && (last.handled < last.sent || last.waiting > 0); still += 1) {
    await sleep(100);
    const now = await progress();
    if (now.handled !== last.handled || now.waiting !== last.waiting) still = 0;
    last = now;
  }
}

const report = setInterval(() => {
  void application
    .progress()
    .then(({ sent, handled, waiting }) =>
      process.stderr.write(
        `${Math.round((performance.now() - started) / 1_000)} s: sent ${sent}, handled ${handled}, waiting ${waiting}\n`,
      ),
    );
}, 10_000);
const [, relays, consumers, servers] = await Promise.all([
  application.write(messages, keys, random("write")),
  killing("relay", relay.kill),
  killing("consumer", consumer.kill),
  killing("postgres", killPostgres),
]);
await settled(application);
clearInterval(report);
const verdict = await application.verdict();
const seconds = Math.round((performance.now() - started) / 1_000);
await Promise.all([relay.close(), consumer.close(), application.close()]);
await removeTopology(place);
await postgres.down();
rmSync(folder, { recursive: true, force: true });

const rows: readonly (readonly [string, number])[] = [
  ["messages committed", verdict.sent],
  ["messages handled", verdict.handled],
  ["relay killed", relays],
  ["consumer killed", consumers],
  ["PostgreSQL killed", servers],
  ["duplicates suppressed", consumer.said.get("duplicate") ?? 0],
  ["dead-lettered", consumer.said.get("deadLettered") ?? 0],
  ["lost", verdict.lost],
  ["never committed", verdict.invented],
  ["effects twice", verdict.twice],
  ["order inversions per key", verdict.inversions],
  ["seconds", seconds],
];
process.stdout.write(`${rows.map(([name, n]) => `${name.padEnd(26)}${String(n).padStart(8)}`).join("\n")}\n`);
process.exitCode = verdict.lost + verdict.invented + verdict.twice + verdict.inversions === 0 ? 0 : 1;
