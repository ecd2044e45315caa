/**
 * The whole journey of 2,000 orders: placed in a transaction, relayed, billed in order per customer, shipped, retried,
 * dead-lettered, redriven; every effect exactly once. The same code on every broker:
 *
 *   npm run demo
 *   npm run demo -- --broker amqp://localhost [--database postgres://localhost/postgres]
 *
 * Kill it half-way and run it again: it finishes the job.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type Bus, type BusEvent, type DeadLetter, MessagingError, createBus } from "postrider";
import { type ShopDatabase, isPostgres, openDatabase } from "./database.ts";
import { takeOrders } from "./intake.ts";
import { createProgress } from "./progress.ts";
import { checkAll, countAll, formatReport, groupByError } from "./report.ts";
import { OrderPlaced } from "./topics.ts";
import { type Billing, startWorkers } from "./workers.ts";

const usage = `usage: npm run demo -- [--broker URL] [--database URL|FILE] [--orders FILE|-] [--fresh]
  --broker    amqp://…  kafka://…  redis://…  sqlite:FILE   default: an embedded broker, sqlite:./.postrider/shop.db
  --database  postgres://… or a SQLite file                 default: ./.postrider/shop.db, or shop-amqp.db and so on
  --orders    JSON lines, - for standard input              default: the 2,000 orders beside this file
  --fresh     forget earlier runs on this database`;

const ownOrders = fileURLToPath(new URL("orders.jsonl", import.meta.url));
const progress = createProgress();

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      broker: { type: "string" },
      database: { type: "string" },
      orders: { type: "string", default: ownOrders },
      fresh: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const name = (values.broker ?? "sqlite").split(":")[0] ?? "";
  const file = `./.postrider/shop${name === "sqlite" ? "" : `-${name}`}.db`;
  const url = values.database ?? file;
  const happened = { retries: 0, duplicates: 0 };
  const count = (event: BusEvent): void => {
    if (event.type === "retry") happened.retries += 1;
    if (event.type === "duplicate") happened.duplicates += 1;
    if (event.type === "reconnecting") progress.show(`waiting for the broker: ${event.error.message}`);
  };

  const adapter = values.broker ?? `sqlite:${isPostgres(url) ? file : url}`;
  // Checked before anything is opened: a wrong URL leaves nothing behind.
  await createBus({ adapter }).close();
  const database = await openDatabase(url, name.replaceAll(/\W/gu, "_"), values.fresh);
  const { store, prefix } = database;
  const bus: Bus = createBus({ adapter, store, prefix, source: "shop", onEvent: count });
  const stop = (): void => void bus.close({ timeout: "2s" }).finally(() => process.exit(130));
  process.once("SIGINT", stop).once("SIGTERM", stop);
  try {
    return await run(bus, database, values.orders, happened);
  } finally {
    await bus.close();
    await database.close();
  }
}

async function run(
  bus: Bus,
  database: ShopDatabase,
  orders: string,
  happened: { retries: number; duplicates: number },
): Promise<number> {
  const billing: Billing = { fixed: false };
  await bus.connect();
  await startWorkers(bus, database, billing);
  bus.relay();

  const intake = await takeOrders(orders, bus, database, ({ lines, placed }) =>
    progress.show(`placing orders: ${lines} lines read, ${placed} orders placed`),
  );
  progress.done(
    `placed ${intake.placed} orders, ${intake.duplicates} duplicates, ${intake.malformed.length} malformed lines:`,
  );
  for (const { line, why } of intake.malformed) progress.done(`  line ${line}: ${why}`);

  const letters = bus.deadLetters(OrderPlaced, { group: "billing" });
  const dead = await waitUntilDone(database, () => Array.fromAsync(letters.list()));
  for (const { error, count } of groupByError(dead)) progress.done(`  ${count} dead letters: ${error}`);

  if (dead.length > 0) {
    progress.done("billing is mended; redriving");
    billing.fixed = true;
    await letters.redrive();
  }
  const left = await waitUntilDone(database, () => Array.fromAsync(letters.list()));
  const check = await checkAll(database);
  const outcome = { ...happened, deadBefore: dead.length, deadAfter: left.length };
  process.stdout.write(`${formatReport(intake, await countAll(database), outcome, check)}\n`);
  return check.lost === 0 && check.twice === 0 ? 0 : 1;
}

/** Until every order is billed, shipped and mailed, or lies in the dead letters. Gives up when nothing has moved for long. */
async function waitUntilDone(
  database: ShopDatabase,
  list: () => Promise<DeadLetter[]>,
): Promise<readonly DeadLetter[]> {
  const patienceMs = 60_000;
  let lastMove = performance.now();
  let before = "";
  for (;;) {
    const { orders, invoices, shipments, mails } = await countAll(database);
    const shown = `${invoices} of ${orders} invoiced, ${shipments} shipped, ${mails} mailed`;
    progress.show(shown);
    const quiet = shown === before;
    if (!quiet) lastMove = performance.now();
    before = shown;
    // Only then: a look at the dead letters is not free.
    if (quiet && shipments >= orders && mails >= invoices) {
      const letters = await list();
      if (invoices + letters.length >= orders || performance.now() - lastMove > patienceMs) {
        progress.done(`${shown}, ${letters.length} dead letters`);
        return letters;
      }
    }
    if (performance.now() - lastMove > patienceMs) {
      progress.done(`${shown}; nothing has moved for ${patienceMs / 1_000} s`);
      return list();
    }
    await sleep(200);
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof Error)) throw error;
  const wrongUse = "code" in error && String(error.code).startsWith("ERR_PARSE_ARGS");
  process.stderr.write(`${error.message}\n${wrongUse ? `${usage}\n` : ""}`);
  process.exitCode = wrongUse || (MessagingError.is(error) && error.code === "ERR_CONFIG") ? 2 : 1;
}
