/**
 * The conformance suite of each adapter on each version of its broker. `npm run test:matrix` runs them, the adapters side by
 * side, and writes the table of test/README.md; with names, such as `-- redis@8 kafka`, it runs those and leaves the other rows.
 * Ends with 1 if a scenario failed.
 */
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { broker, versionsOf, type BrokerName } from "../brokers/index.ts";

const readme = new URL("../../test/README.md", import.meta.url);
const begin = "<!-- matrix: written by `npm run test:matrix` -->\n";
const end = "<!-- end of matrix -->";
const vitest = fileURLToPath(new URL("../../node_modules/vitest/vitest.mjs", import.meta.url));
const closingLine = fileURLToPath(new URL("../../test/support/closing-line.ts", import.meta.url));

const kinds = ["rabbitmq", "kafka", "redis"] as const;

/** The versions of one broker, one after the other. */
async function runKind(kind: (typeof kinds)[number]): Promise<readonly (readonly string[])[]> {
  const rows: (readonly string[])[] = [];
  for (const name of versionsOf(kind)) {
    if (wanted.length === 0 || wanted.includes(name)) rows.push(await run(kind, name));
  }
  return rows;
}

/** Runs the suite of one adapter on one version; resolves with its row. */
async function run(kind: (typeof kinds)[number], name: BrokerName): Promise<readonly string[]> {
  const server = broker(name);
  const wasUp = (await server.status()).state === "up";
  await server.up();
  const version = (await server.status()).version ?? "given";
  const output = await suite(kind, name);
  if (!wasUp) await server.down();
  const count = (what: string): string => new RegExp(`(\\d+) ${what}`).exec(output)?.[1] ?? "0";
  // A run that did not get to its end has no such line, and counts as a failure.
  const ended = /\d+ passed, \d+ failed[^\n]*\n*$/.exec(output);
  const counts = ["passed", "failed", "declared unsupported"].map(count);
  return [name, version, ...(ended ? counts : ["-", "did not end", "-"])];
}

/** The end of what the run of the suite wrote; all of it goes to stderr. */
function suite(kind: string, name: BrokerName): Promise<string> {
  const reporters = ["--reporter=verbose", `--reporter=${closingLine}`];
  const args = [vitest, "run", "--typecheck.enabled=false", ...reporters, `test/conformance/${kind}.test.ts`];
  const env = {
    ...process.env,
    [`POSTRIDER_${kind.toUpperCase()}`]: name,
    POSTRIDER_KEEP_BROKERS: "1",
    NO_COLOR: "1",
  };
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => {
      process.stderr.write(chunk);
      output = `${output}${chunk.toString()}`.slice(-500);
    });
    child.on("error", reject);
    child.on("close", () => resolve(output.slice(output.lastIndexOf("(passed/"))));
  });
}

function toMarkdown(rows: readonly (readonly string[])[]): string {
  const table = [["broker", "version", "passed", "failed", "declared unsupported"], ...rows];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[], fill = " "): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0, fill)).join(" | ")} |`;
  const [head = [], ...body] = table.map((row) => line(row));
  return [
    head,
    line(
      widths.map(() => ""),
      "-",
    ),
    ...body,
  ].join("\n");
}

function cellsOf(line: string | undefined): readonly string[] | undefined {
  return line
    ?.split("|")
    .slice(1, -1)
    .map((cell) => cell.trim());
}

function nameIn(line: string): string | undefined {
  return cellsOf(line)?.[0];
}

const wanted = process.argv.slice(2);
const rows = (await Promise.all(kinds.map(runKind))).flat();
const [head = "", rest = ""] = readFileSync(readme, "utf8").split(begin);
const old = new Map(
  rest
    .slice(0, rest.indexOf(end))
    .split("\n")
    .map((line) => [nameIn(line), line]),
);
const fresh = new Map(rows.map((row) => [row[0], row]));
const all = kinds.flatMap(versionsOf).flatMap((name) => {
  const row = fresh.get(name) ?? cellsOf(old.get(name));
  return row === undefined ? [] : [row];
});
const table = toMarkdown(all);
writeFileSync(readme, `${head}${begin}\n${table}\n\n${rest.slice(rest.indexOf(end))}`);
process.stdout.write(`${table}\n`);
if (rows.length === 0 || rows.some(([, , , failed]) => failed !== "0")) process.exitCode = 1;
