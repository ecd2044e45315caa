import assert from "node:assert/strict";
import { describe, it } from "vitest";
import {
  checkBoolean,
  checkFunction,
  checkInteger,
  checkKeys,
  checkOneOf,
  checkString,
  didYouMean,
} from "../../src/options.ts";
import { messagingErrorOf } from "./support/errors.ts";

describe("checkKeys", () => {
  const known = ["prefetch", "concurrency"];

  it("takes known options, also when they are undefined", () => {
    checkKeys("consume", { prefetch: 1, concurrency: undefined }, known);
    checkKeys("consume", Object.create(null), known);
  });

  it("refuses an unknown one by name and suggests what was meant", async () => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () =>
      checkKeys("consume", { prefech: undefined }, known),
    );

    assert.equal(message, 'consume: unknown option "prefech" (did you mean "prefetch"?)');
  });

  it("lists what there is when nothing is near", async () => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () => checkKeys("consume", { zzz: 1 }, known));

    assert.match(message, /\(there is prefetch, concurrency\)$/u);
  });

  it.each([null, [], "text", 1, undefined, () => 1])("refuses %s instead of options", async (options) => {
    await messagingErrorOf("ERR_CONFIG", () => checkKeys("consume", options, known));
  });
});

describe("didYouMean", () => {
  it("does not mind case, and says nothing of nothing", () => {
    assert.equal(didYouMean("PREFETCH", ["prefetch"]), ' (did you mean "prefetch"?)');
    assert.equal(didYouMean("x", []), "");
  });
});

describe("the checks of single options", () => {
  it.each<[string, () => unknown]>([
    ["an integer below its range", () => checkInteger("n", 0, 1, 10)],
    ["an integer above its range", () => checkInteger("n", 11, 1, 10)],
    ["a fraction", () => checkInteger("n", 1.5, 1, 10)],
    ["NaN", () => checkInteger("n", NaN, 1, 10)],
    ["a number as text", () => checkInteger("n", "5", 1, 10)],
    ["a value that is not in the list", () => checkOneOf("o", "c", ["a", "b"])],
    ["a truthy value instead of a boolean", () => checkBoolean("b", 1)],
    ["a class name instead of a function", () => checkFunction("f", "Class")],
    ["empty text", () => checkString("s", "", 10)],
    ["text that is too long", () => checkString("s", "x".repeat(11), 10)],
  ])("refuse %s", async (_what, act) => {
    await messagingErrorOf("ERR_CONFIG", act);
  });

  it("give back what they took", () => {
    assert.deepEqual(
      [checkInteger("n", 10, 1, 10), checkOneOf("o", false, ["a", false]), checkString("s", "x", 1)],
      [10, false, "x"],
    );
  });
});
