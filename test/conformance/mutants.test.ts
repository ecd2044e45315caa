/** The suite is worth something only if it fails what is broken. */
import assert from "node:assert/strict";
import { conformance } from "postrider/testing";
import { describe, it } from "vitest";
import { type CollectingRunner, collectingRunner } from "../support/collecting-runner.ts";

const suite = (backend: string, ...ids: readonly string[]): CollectingRunner => {
  const runner = collectingRunner();
  const url = import.meta.resolve(`../support/backends/${backend}.ts`);
  conformance({ runner, name: backend, backend: url, only: (id) => ids.includes(id) });
  return runner;
};

describe("an adapter that acknowledges before the copy is confirmed", () => {
  it("fails, by losing the message, and passes as long as nothing is refused", async () => {
    const failures = await suite("acknowledging-first", "R4", "R5", "R8").run();

    assert.deepEqual(
      [...failures.keys()].map((name) => name.split(" ")[0]),
      ["R8"],
    );
    assert.match(String(failures.values().next().value), /AssertionError/u);
  }, 120_000);

  it("passes without that mistake", async () => {
    assert.equal((await suite("memory", "R4", "R5", "R8").run()).size, 0);
  });
});

/** What of these scenarios fails. Each must fail by its own judgement, not by an accident. */
async function failing(mutant: string, ...ids: readonly string[]): Promise<string[]> {
  const failures = await suite(`mutants/${mutant}`, ...ids).run();
  for (const error of failures.values()) assert.ok(error instanceof assert.AssertionError, error as Error);
  return Array.from(failures.keys(), (name) => name.split(" ")[0] ?? "");
}

// What is lost is waited for until it is sure not to come: in all of them at once.
describe("a crash shows", () => {
  it.concurrent("that nobody waited for a copy", async () => {
    assert.deepEqual(await failing("copying-afterwards", "C4"), ["C4"]);
  }, 240_000);

  it.concurrent("that messages were acknowledged when they came", async () => {
    assert.deepEqual(await failing("acknowledging-at-once", "C1"), ["C1"]);
  }, 240_000);

  it.concurrent("that rows were removed before they were published", async () => {
    assert.deepEqual(await failing("removing-first", "C6"), ["C6"]);
  }, 240_000);

  it.concurrent("that the inbox forgot", async () => {
    const ids = ["C3", "C8", "I4", "X6"];
    assert.deepEqual((await failing("forgetful-inbox", ...ids)).toSorted(), ids);
  }, 240_000);
});
