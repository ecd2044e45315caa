import assert from "node:assert/strict";
import * as fc from "fast-check";
import { describe, it } from "vitest";
import { bytes, json } from "../../src/codec.ts";
import { messagingErrorOf } from "./support/errors.ts";

const text = (body: Uint8Array): string => Buffer.from(body).toString("utf8");
const body = (content: string | readonly number[]): Uint8Array =>
  typeof content === "string" ? new TextEncoder().encode(content) : Uint8Array.from(content);

const nested = (depth: number): unknown => {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [value] : { a: value };
  return value;
};
const wide = (keys: number): Record<string, number> =>
  Object.fromEntries(Array.from({ length: keys }, (_, i) => [`k${i}`, i]));
class Money {
  readonly cents = 5;
}

describe("json.encode", () => {
  it.each([
    [null, "null"],
    [0, "0"],
    ["", '""'],
    [false, "false"],
    [{ a: undefined, b: 1 }, '{"b":1}'],
    [new Date(0), '"1970-01-01T00:00:00.000Z"'],
    [{ at: new Date(0) }, '{"at":"1970-01-01T00:00:00.000Z"}'],
    [Object.assign(Object.create(null) as object, { a: 1 }), '{"a":1}'],
    [{ toJSON: () => [1, 2] }, "[1,2]"],
    ["é 漢 🚀 \u0000", '"é 漢 🚀 \\u0000"'],
  ])("writes %j", (payload, written) => {
    assert.equal(text(json.encode(payload)), written);
  });

  it("writes what it reads back, for any JSON value", () => {
    // Names that are refused, and -0, which JSON itself does not keep.
    const hasOddity = (value: unknown): boolean => /__proto__|"constructor"/u.test(JSON.stringify(value));
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), (value) => {
        fc.pre(!hasOddity(value));
        assert.deepEqual(json.decode(json.encode(value)), JSON.parse(JSON.stringify(value)));
      }),
    );
  });

  const cycle: Record<string, unknown> = {};
  cycle["self"] = { of: cycle };
  const throwing = Object.defineProperty({}, "a", {
    enumerable: true,
    get: () => {
      throw new Error("getter");
    },
  });
  const hopeless = new Proxy(
    {},
    {
      ownKeys: () => {
        throw new Error("proxy");
      },
    },
  );

  it.each<[string, unknown, RegExp]>([
    ["undefined", undefined, /body is undefined; send null/u],
    ["a function", () => 1, /payload at \$ is a function/u],
    ["a symbol", Symbol("s"), /payload at \$ is a symbol/u],
    ["a BigInt deep inside", { a: { b: [1, 10n] } }, /payload at \$\.a\.b\[1\] is a bigint/u],
    ["a cycle", cycle, /nested deeper than 64 levels, or refers to itself/u],
    ["a getter that throws", { x: throwing }, /reading \$\.x\.a of the payload threw/u],
    ["a toJSON that throws", { x: { toJSON: () => assert.fail("no") } }, /toJSON of \$\.x threw/u],
    ["a toJSON that gives nothing", { x: { toJSON: () => undefined } }, /\$\.x is undefined/u],
    ["a proxy that throws", { x: hopeless }, /payload/u],
    ["NaN", { total: NaN }, /payload at \$\.total is NaN/u],
    ["Infinity", [Infinity], /payload at \$\[0\] is Infinity/u],
    ["an invalid Date", { at: new Date(NaN) }, /payload at \$\.at is an invalid Date/u],
    ["a Map", { m: new Map([[1, 2]]) }, /payload at \$\.m is an instance of Map/u],
    ["a Set", new Set([1]), /instance of Set/u],
    ["an instance of a class", { price: new Money() }, /\$\.price is an instance of Money/u],
    [
      "an instance without a constructor",
      Object.create(Object.create(Object.create(null))),
      /is an instance of/u,
    ],
    ["a boxed number", { n: Object(1) as unknown }, /instance of Number/u],
    ["a Promise that was not awaited", { p: Promise.resolve(1) }, /instance of Promise/u],
    ["binary data", { b: Buffer.from("x") }, /\$\.b is a Buffer; use codec "bytes"/u],
    ["an array with a hole", [1, , 3], /\$\[1\] is undefined/u], // oxlint-disable-line no-sparse-arrays
    ["undefined in an array", [undefined], /\$\[0\] is undefined/u],
    ["a lone surrogate in text", { s: "\ud800" }, /\$\.s is not well-formed UTF-16/u],
    ["a lone surrogate in a key", { "\ud800": 1 }, /key .* is not well-formed UTF-16/u],
    ["more than 64 levels", nested(65), /nested deeper than 64 levels/u],
    ["more than 10,000 keys", wide(10_001), /more than 10000 keys/u],
    ["a key the receiver refuses", JSON.parse('{"a":{"__proto__":1}}'), /__proto__/u],
    ["a constructor with a prototype", { constructor: { prototype: {} } }, /constructor/u],
  ])("refuses %s, and says where", async (_what, payload, message) => {
    const error = await messagingErrorOf("ERR_ENCODE", () => json.encode(payload));

    assert.match(error.message, message);
    assert.equal(error.retryable, false);
  });

  it("takes what is exactly at the limits", () => {
    json.encode(nested(64));
    json.encode(wide(10_000));
    json.encode({ constructor: "a word like any other" });
  });
});

describe("json.decode", () => {
  it("reads null, numbers, strings and an own key called constructor", () => {
    assert.deepEqual(
      ["null", " 1 ", '"x"', '{"constructor":"c","toString":1}'].map((one) => json.decode(body(one))),
      [null, 1, "x", { constructor: "c", toString: 1 }],
    );
  });

  it.each<[string, string | readonly number[], RegExp]>([
    ["nothing", "", /body is not acceptable JSON/u],
    ["what is no JSON", "{ broken", /body is not acceptable JSON/u],
    ["truncated JSON", '{"a":[1,2', /body is not acceptable JSON/u],
    ["a byte order mark", "\ufeff1", /byte order mark at byte 0/u],
    ["two values", "1 2", /body is not acceptable JSON/u],
    ["invalid UTF-8", [0x22, 0xff, 0xfe, 0x22], /body is not valid UTF-8/u],
    ["UTF-8 cut in the middle", [0x22, 0xe6, 0xbc], /body is not valid UTF-8/u],
    ["a __proto__ key", '{"__proto__":{"admin":true}}', /forbidden prototype/u],
    ["an escaped __proto__ key", '{"\\u005f_proto__":{"admin":true}}', /forbidden prototype/u],
    ["a deep __proto__ key", '[{"a":[{"__proto__":1}]}]', /forbidden prototype/u],
    ["a constructor.prototype key", '{"constructor":{"prototype":{"a":1}}}', /forbidden prototype/u],
    ["endless depth", "[".repeat(100_000) + "]".repeat(100_000), /nested deeper than 64 levels/u],
    ["too many keys", JSON.stringify(wide(10_001)), /more than 10000 keys/u],
  ])("refuses %s", async (_what, content, message) => {
    const error = await messagingErrorOf("ERR_DECODE", () => json.decode(body(content)));

    assert.match(error.message, message);
    assert.equal(Object.hasOwn(Object.prototype, "admin"), false);
  });

  it("does not repeat the body in its error, which is logged and stored", async () => {
    for (const content of ["hunter2", '{"password":"hunter2",}', '{"a":hunter2}', '["hunter2']) {
      const error = await messagingErrorOf("ERR_DECODE", () => json.decode(body(content)));
      assert.doesNotMatch(`${error.message} ${String(error.cause)}`, /hunt/u);
    }
  });
});

describe("bytes", () => {
  it("copies what it sends, so that the sender may use its buffer again", () => {
    const payload = Uint8Array.of(1, 2, 3);
    const written = bytes.encode(payload);
    payload.fill(9);

    assert.deepEqual([...written], [1, 2, 3]);
    assert.deepEqual([...(bytes.decode(written) as Uint8Array)], [1, 2, 3]);
  });

  it.each(["text", null, undefined, [1, 2], new ArrayBuffer(3), 1])("refuses %s", async (payload) => {
    await messagingErrorOf("ERR_ENCODE", () => bytes.encode(payload));
  });
});
