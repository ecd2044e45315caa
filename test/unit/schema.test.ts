import assert from "node:assert/strict";
import { type StandardSchema, defineTopic } from "postrider";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { z } from "zod";
import { decodePayload, encode } from "../../src/envelope.ts";
import type { WireMessage } from "../../src/message.ts";
import { validate } from "../../src/schema.ts";
import type { Topic } from "../../src/topic.ts";
import { messagingErrorOf } from "./support/errors.ts";

const context = { runtime: createFakeRuntime(), source: "shop", maxBytes: 10_000 };

function schemaOf(validateValue: (value: unknown) => unknown): StandardSchema {
  return {
    "~standard": {
      version: 1,
      vendor: "test",
      validate: validateValue as StandardSchema["~standard"]["validate"],
    },
  };
}

describe("validate", () => {
  it("gives the schema's output, synchronously when the schema is", () => {
    const schema = z.object({ n: z.string().transform(Number), d: z.number().default(5) });

    assert.deepEqual(validate("t", schema, { n: "7" }), { n: 7, d: 5 });
    assert.equal(validate("t", undefined, "as it is"), "as it is");
  });

  it("names what is wrong by its path, and not the value", async () => {
    const schema = z.object({ order: z.object({ total: z.number(), lines: z.array(z.string()) }) });
    const bad = { order: { total: "hunter2", lines: [1] } };

    const { message } = await messagingErrorOf("ERR_VALIDATION", () => validate("order.placed", schema, bad));

    assert.match(message, /^payload of topic "order\.placed" does not match its schema: /u);
    assert.match(message, /order\.total: .*; order\.lines\.0: /u);
    assert.doesNotMatch(message, /hunter2/u);
  });

  it("names at most ten issues and says how many more there are", async () => {
    const issues = Array.from({ length: 25 }, (_, i) => ({ message: `wrong ${i}`, path: [{ key: "a" }, i] }));

    const { message } = await messagingErrorOf("ERR_VALIDATION", () =>
      validate(
        "t",
        schemaOf(() => ({ issues })),
        1,
      ),
    );

    assert.match(message, /a\.0: wrong 0; .*a\.9: wrong 9; and 15 more$/u);
  });

  it("waits for an asynchronous schema, also for one whose promise is not the language's own", async () => {
    // oxlint-disable-next-line unicorn/no-thenable -- what is tested
    const thenable = { then: (resolve: (result: unknown) => void) => resolve({ value: "from afar" }) };

    assert.equal(
      await validate(
        "t",
        schemaOf(async () => ({ value: "later" })),
        1,
      ),
      "later",
    );
    assert.equal(
      await validate(
        "t",
        schemaOf(() => thenable),
        1,
      ),
      "from afar",
    );
  });

  it.each<[string, () => unknown]>([
    [
      "throws",
      () => {
        throw new RangeError("broken schema");
      },
    ],
    ["rejects", () => Promise.reject(new RangeError("broken schema"))],
  ])("turns a schema that %s into an error of the library", async (_how, act) => {
    const error = await messagingErrorOf("ERR_VALIDATION", () => validate("t", schemaOf(act), 1));

    assert.ok(error.cause instanceof RangeError);
    assert.match(error.message, /schema of topic "t" failed: broken schema/u);
  });

  it("does not take a schema's nonsense for a valid payload", async () => {
    for (const nonsense of [undefined, null, true, {}]) {
      await messagingErrorOf("ERR_VALIDATION", () =>
        validate(
          "t",
          schemaOf(() => nonsense),
          1,
        ),
      );
    }
  });
});

describe("a topic with a schema", () => {
  const Order = defineTopic("order", {
    schema: z.object({ at: z.coerce.date(), n: z.number().default(1) }),
    key: ({ n }) => `key-${n}`,
  });

  it("puts on the wire what the publisher gave, and gives the handler what the schema makes of it", async () => {
    const message = encode(Order, { at: "2026-01-01" }, {}, context) as WireMessage;

    assert.equal(Buffer.from(message.body ?? []).toString(), '{"at":"2026-01-01"}');
    assert.equal(message.key, "key-1", "the key is made from the validated payload");
    assert.deepEqual(await decodePayload(Order as Topic, message), { at: new Date("2026-01-01"), n: 1 });
  });

  it("refuses to send what does not match", async () => {
    await messagingErrorOf("ERR_VALIDATION", () => encode(Order, { at: "x", n: "y" }, {}, context));
  });
});

describe("an asynchronous schema", () => {
  const asynchronous = (seen: unknown[]): Topic =>
    defineTopic("t", {
      schema: z.object({ n: z.number() }).refine(async (value) => {
        await Promise.resolve();
        seen.push(structuredClone(value));
        return true;
      }),
      key: ({ n }) => `key-${n}`,
    }) as Topic;

  it("judges and sends what the payload was when it was handed over", async () => {
    const payload = { n: 1 };
    const seen: unknown[] = [];

    const encoding = encode(asynchronous(seen), payload, { headers: { a: "1" } }, context);
    payload.n = 2;
    const message = await encoding;

    assert.equal(Buffer.from(message.body ?? []).toString(), '{"n":1}');
    assert.equal(message.key, "key-1");
    assert.deepEqual(seen.at(-1), { n: 1 });
  });

  it("refuses what it finds wrong", async () => {
    const topic = defineTopic("t", { schema: z.number().refine(async (n) => n > 5) });

    await messagingErrorOf("ERR_VALIDATION", () => encode(topic, 1, {}, context));
    await messagingErrorOf("ERR_VALIDATION", () =>
      decodePayload(topic, encode(defineTopic("t"), 1, {}, context) as WireMessage),
    );
  });

  it("says so when the payload cannot be copied to be validated", async () => {
    const uncloneable = { n: 1, toJSON: () => ({ n: 1 }) };

    const error = await messagingErrorOf("ERR_ENCODE", () =>
      encode(asynchronous([]), uncloneable, {}, context),
    );
    assert.match(error.message, /cannot be copied/u);
  });
});
