/**
 * A vitest reporter that ends a run with the scenarios of the conformance suite by adapter, as a table, and with
 * `N passed, N failed` as its last word, for readers that are programs.
 */
import type { Reporter, TestCase, TestModule } from "vitest/node";

interface Counts {
  passed: number;
  failed: number;
  /** Scenarios that an adapter declares it cannot do. */
  unsupported: number;
  skipped: number;
}

const none = (): Counts => ({ passed: 0, failed: 0, unsupported: 0, skipped: 0 });

/** By group of scenarios, then by adapter or store. */
type Table = Map<string, Map<string, Counts>>;

/** Suites by the end of their name; the longer first. */
const suites = [" store conformance", " conformance"] as const;

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const total = none();
    const tables = new Map<string, Table>(suites.map((suite) => [suite, new Map()]));
    for (const module of modules) {
      total.failed += module.errors().length;
      for (const test of module.children.allTests()) {
        const outcome = outcomeOf(test);
        total[outcome] += 1;
        const cell = cellOf(tables, test);
        if (cell !== undefined) cell[outcome] += 1;
      }
    }
    const rest = [
      total.unsupported === 0 ? "" : `, ${total.unsupported} declared unsupported`,
      total.skipped === 0 ? "" : `, ${total.skipped} skipped`,
    ].join("");
    const shown = Array.from(tables.values(), formatTable).join("");
    process.stdout.write(`\n${shown}${total.passed} passed, ${total.failed} failed${rest}\n`);
  }
}

function outcomeOf(test: TestCase): keyof Counts {
  const result = test.result();
  if (result.state === "passed") return "passed";
  if (result.state !== "skipped") return "failed";
  return result.note?.startsWith("declared unsupported") === true ? "unsupported" : "skipped";
}

/** Where a scenario is counted. */
function cellOf(tables: ReadonlyMap<string, Table>, { parent: group }: TestCase): Counts | undefined {
  if (group.type !== "suite" || group.parent.type !== "suite") return undefined;
  const { name } = group.parent;
  const suite = suites.find((end) => name.endsWith(end));
  const table = suite === undefined ? undefined : tables.get(suite);
  if (suite === undefined || table === undefined) return undefined;
  const row = table.get(group.name) ?? new Map<string, Counts>();
  const subject = name.slice(0, -suite.length);
  const cell = row.get(subject) ?? none();
  table.set(group.name, row.set(subject, cell));
  return cell;
}

function formatTable(table: Table): string {
  const names = new Set<string>();
  for (const row of table.values()) for (const name of row.keys()) names.add(name);
  const subjects = [...names].toSorted();
  if (subjects.length === 0) return "";
  const cells = (row: (subject: string) => Counts | undefined): string[] =>
    subjects.map((subject) => formatCell(row(subject)));
  const lines = [
    ["scenarios", ...subjects],
    ...Array.from(table, ([group, row]) => [group].concat(cells((subject) => row.get(subject)))),
    ["in all", ...cells((subject) => sumOf(Array.from(table.values(), (row) => row.get(subject))))],
  ];
  const widths = subjects.map((_, i) => Math.max(...lines.map((line) => line[i + 1]?.length ?? 0)) + 3);
  const text = lines.map(
    ([head = "", ...rest]) => head.padEnd(16) + rest.map((cell, i) => cell.padStart(widths[i] ?? 0)).join(""),
  );
  return `${text.join("\n")}\n(passed/declared unsupported)\n\n`;
}

function formatCell(counts: Counts = none()): string {
  const { passed, failed, unsupported, skipped } = counts;
  if (passed + failed + unsupported === 0) return skipped === 0 ? "" : "not run";
  return `${failed === 0 ? "" : `${failed} FAILED `}${passed}/${unsupported}`;
}

function sumOf(all: readonly (Counts | undefined)[]): Counts {
  const sum = none();
  for (const counts of all) {
    if (counts === undefined) continue;
    for (const outcome of Object.keys(sum) as (keyof Counts)[]) sum[outcome] += counts[outcome];
  }
  return sum;
}
