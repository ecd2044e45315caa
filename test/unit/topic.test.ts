import assert from "node:assert/strict";
import { defineTopic } from "postrider";
import { describe, it } from "vitest";
import { messagingErrorOf } from "./support/errors.ts";

describe("defineTopic", () => {
  it("has eight partitions with a key, one without, or as many as it is told", () => {
    assert.equal(defineTopic<string>("t", { key: String }).partitions, 8);
    assert.equal(defineTopic("t").partitions, 1);
    assert.equal(defineTopic("t", { partitions: 3 }).partitions, 3);
  });

  it("cannot be changed", () => {
    const topic = defineTopic("t");
    assert.throws(() => ((topic as { name: string }).name = "other"), TypeError);
  });

  it.each<[string, unknown, unknown]>([
    ["an empty name", "", {}],
    ["a name of 101 characters", "x".repeat(101), {}],
    ["a name that AMQP reserves", "amq.direct", {}],
    ["a name that is no text", 7, {}],
    ["a misspelt option", "t", { shema: {} }],
    ["a key that is no function", "t", { key: "id" }],
    ["a schema that is none", "t", { schema: { parse: () => 1 } }],
    ["a schema of null", "t", { schema: null }],
    ["0 partitions", "t", { partitions: 0 }],
    ["1,025 partitions", "t", { partitions: 1_025 }],
    ["a codec there is not", "t", { codec: "xml" }],
    ["half a codec", "t", { codec: { encode: () => Uint8Array.of(), contentType: "x" } }],
    ["a codec without a content type", "t", { codec: { encode: () => Uint8Array.of(), decode: () => 1 } }],
    ["a codec of null", "t", { codec: null }],
    ["options of null", "t", null],
  ])("refuses %s", async (_what, name, options) => {
    await messagingErrorOf("ERR_CONFIG", () => defineTopic(name as string, options as object));
  });
});
