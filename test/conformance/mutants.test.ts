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
