/**
 * The guarantee table of the README, from what the adapters declare and the suite checks.
 * `npm run guarantees` writes it; a test says when it is out of date.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Capabilities, createBus } from "postrider";

const readme = new URL("../README.md", import.meta.url);
const begin = "<!-- guarantees: written by `npm run guarantees` -->\n";
const end = "<!-- end of guarantees -->";

export const adapters: readonly (readonly [string, string])[] = [
  ["SQLite", "sqlite:./unused.db"],
  ["RabbitMQ", "amqp://localhost"],
  ["Kafka", "kafka://localhost"],
  ["Redis Streams", "redis://localhost"],
  ["memory", "memory:"],
];

const yes = (value: boolean): string => (value ? "yes" : "no");
const days = (ms: number): string => `${Math.round(ms / 86_400_000)} days`;
/** Rounded down: it is a promise. */
const mebibytes = (bytes: number): string => `${Math.floor((bytes / 1_048_576) * 10) / 10} MiB`;

const rows: readonly (readonly [string, (capabilities: Capabilities) => string])[] = [
  ["messages outlive the process", ({ persistent }) => yes(persistent)],
  ["messages wait for a topic's first group", ({ retains }) => (retains ? "yes" : "no: `ERR_NO_ROUTE`")],
  ["order per key, also under retry", ({ ordering }) => yes(ordering === "key")],
  [
    "retry or dead letter and acknowledgement",
    ({ settlement }) => (settlement === "atomic" ? "one step" : "copy confirmed, then acknowledged"),
  ],
  ["one id published twice is stored once", ({ dedupe }) => (dedupe ? "yes" : "no: the inbox removes it")],
  ["a message that kills its process is found", ({ deliveryCount }) => yes(deliveryCount)],
  ["longest delay", ({ maxDelayMs }) => days(maxDelayMs)],
  ["a delayed message can be cancelled", ({ cancel }) => yes(cancel)],
  ["largest body", ({ maxBytes }) => mebibytes(maxBytes)],
];

/** The table as Markdown. */
export async function guarantees(): Promise<string> {
  const declared: Capabilities[] = [];
  for (const [, url] of adapters) {
    await using bus = createBus({ adapter: url });
    declared.push(bus.capabilities);
  }
  const table = [
    ["", ...adapters.map(([name]) => name)],
    ...rows.map(([title, value]) => [title].concat(declared.map(value))),
  ];
  const widths = (table[0] ?? []).map((_, column) =>
    Math.max(...table.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[], fill = " "): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0, fill)).join(" | ")} |`;
  const [head = [], ...body] = table;
  const rule = line(
    head.map(() => ""),
    "-",
  );
  return [line(head), rule, ...body.map((row) => line(row))].join("\n");
}

/** What stands in the README now. */
export function writtenGuarantees(): string {
  const [, written = ""] = readFileSync(readme, "utf8").split(begin);
  return written.split(end)[0]?.trim() ?? "";
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [head = "", rest = ""] = readFileSync(readme, "utf8").split(begin);
  writeFileSync(readme, `${head}${begin}\n${await guarantees()}\n\n${rest.slice(rest.indexOf(end))}`);
}
