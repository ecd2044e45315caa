/** test/README.md says which scenarios there are, and it cannot say of one that it is there when it is not. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { scenarios } from "postrider/testing";
import { expect, it } from "vitest";
import { required } from "../../scripts/scenario-list.ts";
import { scenarioTable, writtenScenarios } from "../../scripts/scenarios.ts";

const registered = Object.values(scenarios)
  .flat()
  .map(({ id }) => id);

it("the table of scenarios is what the suite has (`npm run scenarios` writes it)", async () => {
  expect(writtenScenarios()).toBe(await scenarioTable());
});

it("asks for 90 core scenarios and 26 extended ones, each once", () => {
  expect(new Set(required.map(({ id }) => id)).size).toBe(116);
  expect(required.filter(({ extended }) => extended)).toHaveLength(26);
});

it("no id is registered twice, and each registered one is in the table with the file that has it", () => {
  expect(registered.toSorted()).toEqual([...new Set(registered)].toSorted());
  const root = fileURLToPath(new URL("../..", import.meta.url));
  for (const id of registered) {
    const row = writtenScenarios()
      .split("\n")
      .find((line) => new RegExp(`^\\| ${id}(?:\\\\\\*)? \\|`, "u").test(line));
    expect(row).not.toContain("| **missing**");
    const file = /`(?<file>[^`]+)` \|$/u.exec(row ?? "")?.groups?.["file"];
    expect(readFileSync(`${root}/${file}`, "utf8")).toContain(`"${id}"`);
  }
});
