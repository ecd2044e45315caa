/** The mutants can still be planted. `npm run test:mutants` sees whether the suite notices them. */
import { readFile } from "node:fs/promises";
import { scenarios } from "postrider/testing";
import { describe, expect, it } from "vitest";
import { mutants } from "./mutants.ts";

const ids = new Set(
  Object.values(scenarios)
    .flat()
    .map(({ id }) => id),
);

describe.each(mutants)("the mutant that $name", ({ file, from, to, caughtBy }) => {
  it("changes one line that is there once", async () => {
    const source = await readFile(new URL(`../../${file}`, import.meta.url), "utf8");
    expect(source.split(from).length - 1).toBe(1);
    expect(to).not.toBe(from);
  });

  it("is to be noticed by scenarios that are there", () => {
    expect(caughtBy.filter((id) => !ids.has(id))).toEqual([]);
  });
});
