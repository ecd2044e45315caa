/** What test/README.md names as proof must be there. */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { storeScenarios } from "postrider/testing";
import { expect, it } from "vitest";

const folder = fileURLToPath(new URL("..", import.meta.url));
const readme = await readFile(`${folder}/README.md`, "utf8");
/** As the table of scenarios has them, which another test compares with the suite. */
const there = new Set(
  Array.from(
    readme.matchAll(/^\| (?<id>[A-Z]\d+)(?:\\\*)? \| .* \| there/gmu),
    (line) => line.groups?.["id"],
  ),
);
const store = new Set(
  Object.values(storeScenarios)
    .flat()
    .map(({ id }) => id),
);

/** The proofs of one line: `A1`, `store W2`, or `file`: name of a test. */
function proofsIn(cell: string): readonly string[] {
  return cell.split(/, (?=store |[A-Z]+\d|`)/u).map((proof) => proof.trim());
}

async function isThere(proof: string): Promise<boolean> {
  if (/^[A-Z]+\d+$/u.test(proof)) return there.has(proof);
  if (/^store [A-Z]+\d+$/u.test(proof)) return store.has(proof.slice("store ".length));
  const { file, name } = /^`(?<file>[^`]+)`: (?<name>.+)$/u.exec(proof)?.groups ?? {};
  if (file === undefined || name === undefined) return false;
  const source = await readFile(`${folder}/${file}`, "utf8").catch(() => "");
  return source.includes(`"${name}"`);
}

it("each hole of other libraries is shut by tests that are there", async () => {
  const [, section = ""] = readme.split("\n## Holes of other libraries");
  const lines = section.split("\n").filter((line) => /^\| (?!what goes|-)/u.test(line));
  const proofs = lines.flatMap((line) => proofsIn(line.split(" | ")[1]?.replace(/ \|$/u, "") ?? ""));

  const missing: string[] = [];
  for (const proof of proofs) if (!(await isThere(proof))) missing.push(proof);

  expect(lines.length).toBeGreaterThan(60);
  expect(missing).toEqual([]);
});
