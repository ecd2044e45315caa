/**
 * The first table of test/README.md: every scenario that is asked of an adapter, and where it is. From the suite itself and
 * from test names that begin with an id; `npm run scenarios` writes it, a test says when it is out of date.
 */
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Capabilities, createBus } from "postrider";
import { mysql } from "postrider/mysql";
import { postgres } from "postrider/postgres";
import type { Store } from "postrider/spi";
import { sqliteStore } from "postrider/sqlite";
import { scenarios } from "postrider/testing";
import { adapters } from "./guarantees.ts";
import { asked, notApplicable, required } from "./scenario-list.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const readme = new URL("../test/README.md", import.meta.url);
const begin = "<!-- scenarios: written by `npm run scenarios` -->\n";
const end = "<!-- end of scenarios -->";

interface Found {
  readonly file: string;
  readonly title: string;
}

/** Not padded, so that a scenario more is one line in a diff. */
const markdownTable = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

const registered = new Map(
  Object.values(scenarios)
    .flat()
    .map((one) => [one.id, one]),
);

/** Scenarios by id: those of the suite, and tests elsewhere whose name begins with an id of the list. */
function findScenarios(): Map<string, Found> {
  const found = new Map<string, Found>();
  const search = (glob: string, pattern: RegExp, titleOf: (id: string, title: string) => string): void => {
    for (const file of globSync(glob, { cwd: root }).toSorted()) {
      for (const { groups } of readFileSync(`${root}/${file}`, "utf8").matchAll(pattern)) {
        const { id = "", title = "" } = groups ?? {};
        if (!found.has(id)) found.set(id, { file, title: titleOf(id, title) });
      }
    }
  };
  const ofSuite = /\bscenario\(\s*"(?<id>[A-Z]\d+)"/gu;
  search("src/testing/conformance/*.ts", ofSuite, (id) => registered.get(id)?.title ?? "");
  // What stands for the row of a test that is given rows is at the end of its name.
  const ofTests =
    /\(\s*"(?<id>[A-Z]\d+) (?<title>[^"]+?)(?:: [^":]*%s)?",\s*(?:\{[^}]*\},\s*)?(?:async )?\(/gu;
  search("test/**/*.ts", ofTests, (_id, title) => title);
  return found;
}

/** An adapter over a store, as far as both declare what they can do. */
interface Combination {
  readonly name: string;
  readonly capabilities: Capabilities;
  readonly store: Store;
}

/** Each adapter over a store that can do everything, and each store that cannot under an adapter that can. */
async function combinations(): Promise<readonly Combination[]> {
  const able = postgres({ url: "postgres://localhost/unused" });
  const made: Combination[] = [];
  for (const [name, url] of adapters) {
    await using bus = createBus({ adapter: url });
    made.push({ name, capabilities: bus.capabilities, store: able });
  }
  const { capabilities } = createBus({ adapter: "memory:" });
  made.push({ name: "the SQLite store", capabilities, store: sqliteStore({ path: "./unused.db" }) });
  made.push({ name: "the MySQL store", capabilities, store: mysql({ url: "mysql://localhost/unused" }) });
  return made;
}

interface State {
  readonly state: "there" | "not applicable" | "**missing**";
  readonly why: string;
}

function stateOf(id: string, isThere: boolean, declared: readonly Combination[]): State {
  const reason = notApplicable[id];
  if (!isThere)
    return reason === undefined
      ? { state: "**missing**", why: "" }
      : { state: "not applicable", why: `: ${reason}` };
  const one = registered.get(id);
  const reasonOf = ({ capabilities, store }: Combination): string | undefined =>
    one?.unsupported?.(capabilities, store);
  const ofStores = declared.slice(adapters.length);
  const ofMemory = declared.slice(0, adapters.length).at(-1);
  // A store is to blame only for what its adapter can do.
  const counted =
    ofMemory === undefined || reasonOf(ofMemory) === undefined
      ? declared
      : declared.slice(0, -ofStores.length);
  const skipped = counted.flatMap((each) => {
    const why = reasonOf(each);
    return why === undefined ? [] : [{ name: each.name, why }];
  });
  const reasons = [...Map.groupBy(skipped, ({ why }) => why)];
  if (skipped.length === counted.length)
    return { state: "not applicable", why: `: ${reasons.map(([why]) => why).join("; ")}` };
  const parts = reasons.map(([why, those]) => `; not on ${those.map(({ name }) => name).join(", ")}: ${why}`);
  return { state: "there", why: parts.join("") };
}

/** Counts, and the table as Markdown. */
export async function scenarioTable(): Promise<string> {
  const found = findScenarios();
  const declared = await combinations();
  const listed = new Set(required.map(({ id }) => id));
  const beyond = [...registered.keys()]
    .filter((id) => !listed.has(id))
    .map((id) => ({ id, extended: false }));
  const rows = [...required, ...beyond].map(({ id, extended }) => {
    const there = found.get(id);
    const { state, why } = stateOf(id, there !== undefined, declared);
    const file = there === undefined ? "" : `\`${there.file}\``;
    const title = there?.title ?? asked[id] ?? "";
    return { id, extended, state, cells: [`${id}${extended ? "\\*" : ""}`, title, `${state}${why}`, file] };
  });
  const count = (extended: boolean, state: State["state"]): string =>
    String(
      rows.filter((row) => listed.has(row.id) && row.extended === extended && row.state === state).length,
    );
  const counts = (
    [
      ["core", false],
      ["extended (\\*)", true],
    ] as const
  ).map(([name, extended]) => [
    name,
    count(extended, "there"),
    count(extended, "not applicable"),
    count(extended, "**missing**"),
  ]);
  const table = rows.map(({ cells }) => cells);
  return [
    markdownTable(["", "there", "not applicable", "missing"], counts),
    markdownTable(["id", "scenario", "state", "file"], table),
  ].join("\n\n");
}

/** What stands in test/README.md now. */
export function writtenScenarios(): string {
  const [, written = ""] = readFileSync(readme, "utf8").split(begin);
  return written.split(end)[0]?.trim() ?? "";
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [head = "", rest = ""] = readFileSync(readme, "utf8").split(begin);
  writeFileSync(readme, `${head}${begin}\n${await scenarioTable()}\n\n${rest.slice(rest.indexOf(end))}`);
}
