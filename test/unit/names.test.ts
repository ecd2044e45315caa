import assert from "node:assert/strict";
import * as fc from "fast-check";
import { describe, it } from "vitest";
import { checkName, checkPrefix, createNames } from "../../src/names.ts";
import { messagingErrorOf } from "./support/errors.ts";

const letters = "abcXYZ019._-".split("");
const name = fc
  .string({ unit: fc.constantFrom(...letters), minLength: 1, maxLength: 12 })
  .filter((text) => /^[A-Za-z0-9]/u.test(text) && !text.includes("--") && !text.includes(".."));

describe("checkName", () => {
  it.each(["a", "order.placed", "Order_Placed-2", "0", "x".repeat(100)])("takes %j", (given) => {
    checkName("topic", given);
    checkName("group", given);
  });

  it.each([
    "",
    "x".repeat(101),
    ".a",
    "-a",
    "_a",
    "a--b",
    "a..b",
    "..",
    "a b",
    "a/b",
    "a\n",
    "ä",
    "a\u0000",
    "a*",
    "amq.topic",
    null,
    undefined,
    7,
    {},
  ])("refuses %j", async (given) => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () => checkName("topic", given));
    assert.match(message, /^topic name /u);
  });

  it("keeps the name of the shared delay queues for itself", async () => {
    await messagingErrorOf("ERR_CONFIG", () => checkName("topic", "postrider"));
  });
});

describe("checkPrefix", () => {
  it("takes nothing, and refuses what would blur the separator", async () => {
    checkPrefix("");
    checkPrefix("staging.");
    for (const given of ["a--", "x".repeat(31), "a b", null]) {
      await messagingErrorOf("ERR_CONFIG", () => checkPrefix(given));
    }
  });
});

describe("createNames", () => {
  it("begins every name with the prefix", () => {
    const names = createNames("staging.");

    assert.deepEqual(
      [
        names.topic("t"),
        names.group("g"),
        names.queue("t", "g"),
        names.dead("t", "g"),
        names.retry("t", "g", 30_000),
        names.delay(90_000),
      ],
      [
        "staging.t",
        "staging.g",
        "staging.t--g",
        "staging.t--g--dead",
        "staging.t--g--retry-30s",
        "staging.postrider--delay-90s",
      ],
    );
  });

  it("never gives one name to two things", () => {
    const names = createNames("");
    fc.assert(
      fc.property(name, name, name, name, fc.integer({ min: 1, max: 100_000 }), (t1, g1, t2, g2, ms) => {
        fc.pre((t1 !== t2 || g1 !== g2) && t1 !== "postrider" && t2 !== "postrider");
        const of = (t: string, g: string): string[] => [
          names.queue(t, g),
          names.dead(t, g),
          names.retry(t, g, ms),
        ];
        const all = [...of(t1, g1), ...of(t2, g2), names.topic(t1), names.delay(ms)];
        assert.equal(new Set(all).size, all.length, all.join(" "));
      }),
      { numRuns: 1_000 },
    );
  });
});
