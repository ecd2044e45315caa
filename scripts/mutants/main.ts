/**
 * `npm run test:mutants [-- name]`: plants each known mistake in an adapter and runs the scenarios that should notice. Prints
 * which did, and ends with 1 when a mistake went through.
 */
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Mutant, mutants } from "../../test/mutants/mutants.ts";
import { mutantVariable } from "../../test/mutants/plant.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** The scenarios that failed, of those that should. A scenario that is not there, or could not begin, proves nothing. */
async function failuresOf({ name, adapter, caughtBy }: Mutant): Promise<readonly string[]> {
  const folder = await mkdtemp(join(tmpdir(), "postrider-mutant-"));
  const report = join(folder, "report.json");
  const suite = `test/conformance/${adapter}.test.ts`;
  const args = ["run", "--typecheck.enabled=false", "--reporter=json", `--outputFile=${report}`];
  const child = spawn(
    `${root}/node_modules/.bin/vitest`,
    [...args, suite, "-t", `(${caughtBy.join("|")}) `],
    { cwd: root, env: { ...process.env, [mutantVariable]: name }, stdio: ["ignore", "ignore", "inherit"] },
  );
  try {
    await new Promise((resolve) => child.on("close", resolve));
    return failedTests(JSON.parse(await readFile(report, "utf8")) as Report)
      .map((title) => title.split(" ")[0] ?? "")
      .filter((id) => caughtBy.includes(id));
  } finally {
    await rm(folder, { recursive: true });
  }
}

interface Report {
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly status: string; readonly title: string }[];
  }[];
}

function failedTests({ testResults }: Report): readonly string[] {
  return testResults.flatMap(({ assertionResults }) =>
    assertionResults.filter(({ status }) => status === "failed").map(({ title }) => title),
  );
}

const wanted = process.argv[2];
const chosen = mutants.filter(({ name }) => wanted === undefined || name.includes(wanted));
let survivors = 0;
for (const mutant of chosen) {
  process.stdout.write(`${mutant.adapter.padEnd(10)}${mutant.name.padEnd(52)}`);
  const failed = await failuresOf(mutant);
  if (failed.length === 0) survivors += 1;
  process.stdout.write(`${failed.length === 0 ? "WENT THROUGH" : `fails ${failed.join(", ")}`}\n`);
}
process.stdout.write(`${chosen.length - survivors} of ${chosen.length} mistakes are noticed\n`);
process.exitCode = survivors === 0 && chosen.length > 0 ? 0 : 1;
