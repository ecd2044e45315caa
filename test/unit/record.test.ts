import assert from "node:assert/strict";
import * as fc from "fast-check";
import { NonRetryableError } from "postrider";
import { describe, it } from "vitest";
import { header } from "../../src/headers.ts";
import { deadLetterPatch, describeError, laterPatch, retryPatch } from "../../src/record.ts";
import { version } from "../../src/version.ts";
import { workOf } from "./support/work.ts";

const trap = (): never => assert.fail("touched");
const hostile = new Proxy({}, { get: trap, has: trap });

describe("describeError", () => {
  it.each<[string, unknown, { name: string; message: string; code: string | undefined }]>([
    [
      "an error with a code",
      Object.assign(new RangeError("bad"), { code: "E_X" }),
      { name: "RangeError", message: "bad", code: "E_X" },
    ],
    [
      "an error of ours",
      new NonRetryableError("no"),
      { name: "NonRetryableError", message: "no", code: "ERR_NON_RETRYABLE" },
    ],
    ["a numeric code", { message: "m", code: 42 }, { name: "Error", message: "m", code: "42" }],
    ["null", null, { name: "object", message: "null", code: undefined }],
    ["undefined", undefined, { name: "undefined", message: "undefined", code: undefined }],
    ["text", "broken", { name: "string", message: "broken", code: undefined }],
    ["a symbol", Symbol("s"), { name: "symbol", message: "Symbol(s)", code: undefined }],
    ["an empty object", {}, { name: "Error", message: "(no message)", code: undefined }],
    [
      "an object that throws when it is read",
      hostile,
      { name: "Error", message: "(no message)", code: undefined },
    ],
    [
      "fields that are no text",
      { name: {}, message: [] },
      { name: "Error", message: "(no message)", code: undefined },
    ],
  ])("describes %s", (_what, error, described) => {
    assert.deepEqual(describeError(error), described);
  });

  it("never throws, and always gives short, well-formed, single lines", () => {
    fc.assert(
      fc.property(
        fc.anything({ withNullPrototype: true, withDate: true }),
        fc.string({ unit: "binary", maxLength: 2_500 }),
        (any, text) => {
          for (const error of [any, new Error(text), { name: text, message: text, code: text }]) {
            const { name, message, code = "" } = describeError(error);
            assert.ok(name.length <= 200 && message.length <= 2_048 && code.length <= 100);
            for (const part of [name, message, code]) {
              assert.ok(part.isWellFormed());
              assert.doesNotMatch(part, /[\n\r]/u);
            }
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  it("does not cut a character in two", () => {
    assert.ok(describeError(new Error("x".repeat(2_047) + "🚀")).message.isWellFormed());
  });

  it("does not write secrets down", () => {
    const error = new Error(
      "login as amqp://user:hunter2@host failed, password=hunter2, Authorization: Bearer hunter2",
    );

    assert.doesNotMatch(describeError(error).message, /hunter2/u);
  });
});

describe("the headers of a retry", () => {
  it("carry how many attempts failed, and when the first did", () => {
    const work = workOf({ attributes: { id: "1" }, headers: { [header.failures]: "2" } });
    work.firstFailureAt = 1_234.6;
    work.failures += 1;

    assert.deepEqual(retryPatch(work), {
      [header.failures]: "3",
      [header.redeliveries]: undefined,
      [header.firstFailureAt]: "1235",
      [header.notBefore]: undefined,
    });
  });

  it("carry how often the message was handed over again, so that its attempts never go back", () => {
    const work = workOf(
      { attributes: { id: "1" }, headers: { [header.failures]: "1", [header.redeliveries]: "2" } },
      { redeliveries: 3 },
    );
    assert.equal(work.attempt, 7);
    work.failures += 1;

    assert.equal(retryPatch(work)[header.failures], "2");
    assert.equal(retryPatch(work)[header.redeliveries], "5");
  });

  it("carry the position of a message without an id, once", () => {
    assert.equal(retryPatch(workOf())[header.position], "p@1");
    assert.equal(retryPatch(workOf({ attributes: { id: "" } }))[header.position], "p@1");
    assert.equal(header.position in retryPatch(workOf({ headers: { [header.position]: "first" } })), false);
    assert.equal(header.position in retryPatch(workOf({ attributes: { id: "1" } })), false);
  });
});

describe("the headers of a message that comes later", () => {
  it("say nothing of attempts", () => {
    const work = workOf({
      attributes: { id: "1" },
      headers: { [header.failures]: "2", [header.notBefore]: "99" },
    });

    assert.deepEqual(laterPatch(work), { [header.notBefore]: undefined });
  });
});

describe("the headers of a dead letter", () => {
  it("say why, when, where and how often, and take the headers of a retry away", () => {
    const work = workOf({ attributes: { id: "1" }, headers: { [header.failures]: "1" } });
    work.firstFailureAt = 500;

    assert.deepEqual(deadLetterPatch(work, "exhausted", new RangeError("bad"), 1_000), {
      [header.reason]: "exhausted",
      [header.attempts]: "2",
      [header.group]: "g",
      [header.errorName]: "RangeError",
      [header.errorMessage]: "bad",
      [header.errorCode]: undefined,
      [header.firstFailureAt]: "500",
      [header.deadLetteredAt]: "1000",
      [header.version]: version,
      [header.failures]: undefined,
      [header.redeliveries]: undefined,
      [header.notBefore]: undefined,
    });
  });

  it("have a reason on one line", () => {
    assert.equal(deadLetterPatch(workOf(), "two\r\nlines", null, 1)[header.reason], "two lines");
  });
});
