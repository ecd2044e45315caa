import assert from "node:assert/strict";
import * as fc from "fast-check";
import { describe, it } from "vitest";
import { checkHeaders, header, headerCount, headerMap, headerTime, patchHeaders } from "../../src/headers.ts";
import { messagingErrorOf } from "./support/errors.ts";

/** All that an object has without its own doing. */
function inherited(object: object): readonly PropertyKey[] {
  const prototype = Object.getPrototypeOf(object) as object | null;
  return prototype === null ? [] : [...Reflect.ownKeys(prototype), ...inherited(prototype)];
}

describe("checkHeaders", () => {
  it("copies what it is given into a map that inherits nothing", () => {
    const given = { tenant: "acme", "x-request.id_1": "é 漢 🚀" };
    const checked = checkHeaders(given);
    given.tenant = "changed";

    assert.deepEqual({ ...checked }, { tenant: "acme", "x-request.id_1": "é 漢 🚀" });
    assert.deepEqual(inherited(checked), []);
    assert.deepEqual({ ...checkHeaders(undefined) }, {});
  });

  it("takes names that mean something to JavaScript as names only", () => {
    const checked = checkHeaders({ constructor: "a", toString: "b", hasOwnProperty: "c" });

    assert.deepEqual({ ...checked }, { constructor: "a", toString: "b", hasOwnProperty: "c" });
    assert.equal(checkHeaders({})["constructor"], undefined);
  });

  it.each([
    "",
    "two words",
    "a\r\nb",
    "a:b",
    "a\u0000",
    "é",
    "__proto__",
    "_a",
    "x".repeat(64),
    "pr-attempts",
    "PR-Attempts",
    "ce_id",
    "ce-id",
    "cloudEvents_id",
    "content-type",
    "Content-Type",
    "x-death",
    "x-first-death-queue",
    "x-delivery-count",
  ])("refuses the name %j", async (name) => {
    const headers = JSON.parse(JSON.stringify(Object.fromEntries([[name, "v"]]))) as object;
    await messagingErrorOf("ERR_HEADER", () => checkHeaders(headers));
  });

  it.each<[string, unknown]>([
    ["an object", {}],
    ["an array", ["a"]],
    ["undefined", undefined],
    ["null", null],
    ["a number", 1],
    ["a line break", "a\r\nb: c"],
    ["a NUL", "a\u0000"],
    ["a lone surrogate", "\udc00"],
    ["more than 8 KiB", "x".repeat(8_193)],
    ["more than 8 KiB in bytes", "漢".repeat(3_000)],
  ])("refuses %s as a value, naming the header and not the value", async (_what, value) => {
    const { message } = await messagingErrorOf("ERR_HEADER", () => checkHeaders({ secret: value }));

    assert.match(message, /^header "secret" /u);
    assert.ok(message.length < 200);
  });

  it("refuses more than 32 KiB in all", async () => {
    const many = (bytes: number): object =>
      Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`h${i}`, "x".repeat(bytes / 8 - 2)]));

    checkHeaders(many(32_768));
    const { message } = await messagingErrorOf("ERR_HEADER", () => checkHeaders(many(32_776)));
    assert.match(message, /headers take 32776 bytes, more than 32768/u);
  });

  it.each<[string, unknown]>([
    ["an array", ["a", "b"]],
    ["null", null],
    ["text", "a=b"],
    ["a Map, whose entries would be lost", new Map([["a", "b"]])],
    ["the Headers of fetch, whose entries would be lost", new Headers({ a: "b" })],
  ])("refuses %s instead of headers", async (_what, headers) => {
    await messagingErrorOf("ERR_HEADER", () => checkHeaders(headers));
  });
});

describe("headerMap and patchHeaders", () => {
  it("change nothing but the copy they return", () => {
    const original = headerMap({ a: "1", b: "2" });
    const patched = patchHeaders(original, { a: undefined, b: "3", c: "4" });

    assert.deepEqual({ ...original }, { a: "1", b: "2" });
    assert.deepEqual({ ...patched }, { b: "3", c: "4" });
    assert.deepEqual(inherited(patched), []);
  });

  it("treat __proto__ as a name like any other", () => {
    const map = headerMap([["__proto__", "x"]]);

    assert.equal(map["__proto__"], "x");
    assert.equal(({} as Record<string, unknown>)["x"], undefined);
    assert.equal(patchHeaders(map, { a: "1" })["__proto__"], "x");
  });
});

describe("headerCount", () => {
  it.each([
    ["3", 3],
    ["1000000000", 1_000_000],
    ["-1", 0],
    ["1.5", 0],
    ["abc", 0],
    ["", 0],
    ["NaN", 0],
    ["Infinity", 0],
    [undefined, 0],
  ])("reads %j as %d", (value, count) => {
    const headers = headerMap(value === undefined ? [] : [[header.failures, value]]);
    assert.equal(headerCount(headers, header.failures), count);
  });

  it("is a whole number within its bounds whatever somebody wrote", () => {
    fc.assert(
      fc.property(fc.string(), (value) => {
        const count = headerCount(headerMap([["n", value]]), "n", 1_000);
        assert.ok(Number.isInteger(count) && count >= 0 && count <= 1_000);
      }),
    );
  });
});

describe("headerTime", () => {
  it.each([
    ["1700000000000", 1_700_000_000_000],
    ["0", undefined],
    ["-5", undefined],
    ["9e15", undefined],
    ["tomorrow", undefined],
    ["", undefined],
    [undefined, undefined],
  ])("reads %j as %j", (value, time) => {
    assert.equal(headerTime(headerMap(value === undefined ? [] : [["t", value]]), "t"), time);
  });
});
