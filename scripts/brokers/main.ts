/** `npm run brokers -- up|down|status [name…]`: results on stdout, progress and errors on stderr. */
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { allBrokerNames, broker, brokerNames, type Broker, type BrokerName } from "./index.ts";
import { placeOf } from "./settings.ts";

const usage = `\
usage: npm run brokers -- up [name…]            start, print the URLs; nothing happens if they are up
       npm run brokers -- down [--keep] [name…] stop, remove the data unless --keep
       npm run brokers -- status [name…]

names: ${allBrokerNames.join(", ")}. Without one: ${brokerNames.join(", ")}
       (down and status: also the others that were ever started).
`;

const verbs: Readonly<Record<string, (names: readonly BrokerName[], keep: boolean) => Promise<void>>> = {
  up: async (names) => {
    const brokers = (names.length > 0 ? names : brokerNames).map(broker);
    await forEach(brokers, async (each) => {
      await each.up();
    });
    table(brokers.map(({ name, url }) => [name, url]));
  },

  down: (names, keep) => forEach(known(names), (each) => each.down({ keep })),

  status: async (names) => {
    const row = async (each: Broker): Promise<readonly string[]> => {
      const { version, pid, state } = await each.status();
      return [each.name, version ?? "-", each.url, `${pid ?? "-"}`, state];
    };
    const rows = await Promise.all(known(names).map(row));
    table([["name", "version", "url", "pid", "state"], ...rows]);
  },
};

/** Those asked for; else the usual ones and whatever else has left something behind. */
function known(names: readonly BrokerName[]): readonly Broker[] {
  const all = allBrokerNames.filter((name) => brokerNames.includes(name) || existsSync(placeOf(name).home));
  return (names.length > 0 ? names : all).map(broker);
}

/** All at once; one that fails does not keep the others from being finished. */
async function forEach(brokers: readonly Broker[], work: (each: Broker) => Promise<void>): Promise<void> {
  const results = await Promise.allSettled(brokers.map(work));
  const errors = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
  if (errors.length > 0) throw new AggregateError(errors);
}

function table(rows: readonly (readonly string[])[]): void {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  for (const row of rows) {
    process.stdout.write(
      `${row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd()}\n`,
    );
  }
}

function isBrokerName(name: string): name is BrokerName {
  return allBrokerNames.some((known) => known === name);
}

function complain(text: string): 2 {
  process.stderr.write(`${text}\n\n${usage}`);
  return 2;
}

async function main(args: readonly string[]): Promise<0 | 1 | 2> {
  let parsed;
  try {
    const options = { keep: { type: "boolean" }, help: { type: "boolean", short: "h" } } as const;
    parsed = parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    return complain((error as Error).message);
  }
  const [verb = "", ...names] = parsed.positionals;
  const { keep = false, help = false } = parsed.values;
  if (help) {
    process.stdout.write(usage);
    return 0;
  }
  const action = Object.hasOwn(verbs, verb) ? verbs[verb] : undefined;
  if (!action) return complain(verb ? `unknown command: ${verb}` : "which command?");
  const unknown = names.filter((name) => !isBrokerName(name));
  if (unknown.length > 0) return complain(`unknown name: ${unknown.join(", ")}`);
  if (keep && verb !== "down") return complain("--keep belongs to down");
  try {
    await action([...new Set(names.filter(isBrokerName))], keep);
    return 0;
  } catch (error) {
    for (const each of error instanceof AggregateError ? error.errors : [error]) {
      process.stderr.write(`${each instanceof Error ? each.message : String(each)}\n`);
    }
    return 1;
  }
}

process.exitCode = await main(process.argv.slice(2));
