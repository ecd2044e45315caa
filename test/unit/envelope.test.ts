import assert from "node:assert/strict";
import * as fc from "fast-check";
import { defineTopic } from "postrider";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import {
  type EnvelopeOptions,
  decodePayload,
  describe as describeMessage,
  encode,
} from "../../src/envelope.ts";
import { header } from "../../src/headers.ts";
import type { Message, WireMessage } from "../../src/message.ts";
import type { Topic } from "../../src/topic.ts";
import { messagingErrorOf } from "./support/errors.ts";
import { wire } from "./support/wire.ts";

const topic = defineTopic<{ a: number }>("order.placed");
const context = { runtime: createFakeRuntime({ now: 1_700_000_000_000 }), source: "shop", maxBytes: 1_000 };

const send = (payload: unknown, options: EnvelopeOptions = {}, to: Topic = topic): WireMessage =>
  encode(to, payload, options, context) as WireMessage;
const receive = (message: WireMessage, position = "p@1"): Omit<Message, "payload"> =>
  describeMessage("order.placed", position, message, 42);

describe("encode", () => {
  it("writes a CloudEvent in binary mode", () => {
    const keyed = defineTopic<{ a: number }>("order.placed", { key: ({ a }) => `key-${a}` });
    const message = send({ a: 1 }, { idempotencyKey: "i", correlationId: "c", causationId: "d" }, keyed);

    const { id, ...attributes } = message.attributes;
    assert.match(id ?? "", /^[0-9a-f-]{36}$/u);
    assert.deepEqual(attributes, {
      specversion: "1.0",
      source: "shop",
      type: "order.placed",
      time: "2023-11-14T22:13:20.000Z",
      datacontenttype: "application/json",
      partitionkey: "key-1",
      idempotencykey: "i",
      correlationid: "c",
      causationid: "d",
    });
    assert.equal(message.key, "key-1");
    assert.equal(Buffer.from(message.body ?? []).toString(), '{"a":1}');
  });

  it("gives the option's key precedence over the topic's, and no key when there is none", () => {
    const keyed = defineTopic<{ a: number }>("t", { key: ({ a }) => (a === 0 ? undefined : "from topic") });

    assert.equal(send({ a: 1 }, { key: "from option" }, keyed as Topic).key, "from option");
    assert.equal(send({ a: 0 }, {}, keyed as Topic).key, undefined);
    assert.equal("partitionkey" in send({ a: 0 }, {}, keyed as Topic).attributes, false);
  });

  it("moves trace context from the headers to the attributes", () => {
    const message = send({ a: 1 }, { headers: { traceparent: "00-1", tracestate: "x=1", tenant: "acme" } });

    assert.deepEqual({ ...message.headers }, { tenant: "acme" });
    assert.deepEqual([message.attributes["traceparent"], message.attributes["tracestate"]], ["00-1", "x=1"]);
  });

  it("refuses a body above the limit, with both sizes and what to do", async () => {
    const { message } = await messagingErrorOf("ERR_TOO_LARGE", () => send({ a: "x".repeat(1_234) }));

    assert.match(message, /is 1,242 > 1,000 bytes; store it elsewhere and send a reference/u);
    send("x".repeat(998));
  });

  it.each<[string, EnvelopeOptions]>([
    ["an empty id", { id: "" }],
    ["an id of 256 characters", { id: "x".repeat(256) }],
    ["an id that is no text", { id: 7 as unknown as string }],
    ["an id with a lone surrogate", { id: "\udfff" }],
    ["an id with a line break", { id: "a\nb" }],
    ["an empty idempotency key", { idempotencyKey: "" }],
    ["a long correlation id", { correlationId: "x".repeat(256) }],
    ["an empty causation id", { causationId: "" }],
    ["an empty key", { key: "" }],
    ["a key of 513 characters", { key: "x".repeat(513) }],
    ["a key that is a number", { key: 7 as unknown as string }],
  ])("refuses %s", async (_what, options) => {
    await messagingErrorOf("ERR_ID", () => send({ a: 1 }, options));
  });

  it("says that it was the topic's key function that failed", async () => {
    const broken = defineTopic<{ a: { b: string } }>("t", { key: ({ a }) => a.b });

    const error = await messagingErrorOf("ERR_ID", () => send({}, {}, broken));
    assert.match(error.message, /key function of topic "t"/u);
    assert.ok(error.cause instanceof TypeError);
  });

  it.each<[string, unknown]>([
    ["text", "not bytes"],
    ["nothing", undefined],
    ["a promise", Promise.resolve(Uint8Array.of(1))],
  ])("refuses a codec of the user's own that gives %s", async (_what, result) => {
    const odd = defineTopic("t", {
      codec: { contentType: "x", encode: () => result as Uint8Array, decode: () => null },
    });
    await messagingErrorOf("ERR_ENCODE", () => send(1, {}, odd));
  });

  it("says which topic's codec threw", async () => {
    const cause = new RangeError("no");
    const broken = defineTopic("t", {
      codec: {
        contentType: "x",
        encode: () => {
          throw cause;
        },
        decode: () => null,
      },
    });

    const error = await messagingErrorOf("ERR_ENCODE", () => send(1, {}, broken));
    assert.equal(error.cause, cause);
    assert.match(error.message, /topic "t"/u);
  });
});

describe("a message", () => {
  const text = fc.string({ unit: "grapheme", minLength: 1, maxLength: 60 }).filter(
    // oxlint-disable-next-line no-control-regex -- what ids and headers may not have
    (value) => value.isWellFormed() && !/[\u0000-\u001f\u007f]/u.test(value) && value.length <= 255,
  );
  const headerName = fc
    .stringMatching(/^[a-z][a-z0-9.]{0,20}$/u)
    .filter((name) => !/^(?:ce|x|trace|cloud)/u.test(name));
  const options = fc.record(
    { id: text, key: text, idempotencyKey: text, correlationId: text, causationId: text },
    { requiredKeys: [] },
  );

  it("comes back from the wire as it was sent, whatever it says", async () => {
    const payloads = fc
      .jsonValue({ maxDepth: 4 })
      .filter((one) => !/__proto__|constructor/u.test(JSON.stringify(one)));
    await fc.assert(
      fc.asyncProperty(
        payloads,
        options,
        fc.dictionary(headerName, text),
        async (payload, given, headers) => {
          const large = { ...context, maxBytes: 1_000_000 };
          const message = encode(topic, payload, { ...given, headers }, large) as WireMessage;
          const shown = receive(message);

          assert.deepEqual(await decodePayload(topic, message), JSON.parse(JSON.stringify(payload)));
          assert.deepEqual({ ...shown.headers }, { ...headers });
          assert.equal(shown.key, given.key);
          if (given.id !== undefined) assert.equal(shown.id, given.id);
          assert.deepEqual(
            [shown.idempotencyKey, shown.correlationId, shown.causationId, shown.source, shown.redrives],
            [given.idempotencyKey, given.correlationId, given.causationId, "shop", 0],
          );
          assert.equal(shown.time.getTime(), 1_700_000_000_000);
          assert.deepEqual({ ...shown.attributes }, {});
        },
      ),
    );
  });

  it("cannot be changed by who handles it", () => {
    const shown = receive(wire({ headers: { tenant: "acme" }, attributes: { id: "1", subject: "s" } }));

    assert.throws(() => ((shown.headers as Record<string, string>)["tenant"] = "other"), TypeError);
    assert.throws(() => ((shown.attributes as Record<string, string>)["subject"] = "other"), TypeError);
  });
});

describe("a foreign message", () => {
  it("is known by where it was read, and its other fields are empty", () => {
    const shown = receive(wire({ headers: { tenant: "acme" }, key: "k" }));

    assert.deepEqual(
      [shown.id, shown.key, shown.source, shown.contentType, shown.idempotencyKey, shown.correlationId],
      ["order.placed:p@1", "k", "", undefined, undefined, undefined],
    );
    assert.equal(shown.time.getTime(), 42);
    assert.deepEqual({ ...shown.headers }, { tenant: "acme" });
  });

  it("keeps its id when it is read elsewhere, by the position that was written down first", () => {
    assert.equal(receive(wire({ headers: { [header.position]: "p@1" } }), "retry@9").id, "order.placed:p@1");
  });

  it("has no id, idempotency key or correlation id when these are empty", () => {
    const empty = { id: "", idempotencykey: "", correlationid: "", causationid: "" };
    const shown = receive(wire({ attributes: empty }));

    assert.deepEqual(
      [shown.id, shown.idempotencyKey, shown.correlationId, shown.causationId],
      ["order.placed:p@1", undefined, undefined, undefined],
    );
  });

  it("with ids too long or unprintable gets others: usable in what a handler publishes, and never equal by accident", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary", minLength: 1, maxLength: 400 }),
        fc.string({ maxLength: 3 }),
        (base, more) => {
          fc.pre(more !== "");
          for (const attribute of ["id", "idempotencykey"] as const) {
            const read = (value: string): string => {
              const shown = receive(wire({ attributes: { id: "1", [attribute]: value } }));
              return (attribute === "id" ? shown.id : shown.idempotencyKey) ?? "";
            };
            const [one, two] = [read(base), read(base + more)];
            assert.notEqual(one, two);
            send({ a: 1 }, { correlationId: one, causationId: two, idempotencyKey: one });
          }
        },
      ),
      { numRuns: 50 },
    );
    const long = "x".repeat(255);
    assert.equal(receive(wire({ attributes: { id: long } })).id, long);
  });

  it("may have any time, and any number of attributes we do not know", () => {
    const shown = receive(wire({ attributes: { time: "yesterday", subject: "s", constructor: "c" } }));

    assert.equal(shown.time.getTime(), 42);
    assert.deepEqual({ ...shown.attributes }, { subject: "s", constructor: "c" });
  });

  it("cannot show headers of ours as its own", () => {
    const shown = receive(wire({ headers: { "pr-reason": "forged", tenant: "acme" } }));

    assert.deepEqual({ ...shown.headers }, { tenant: "acme" });
  });
});

describe("decodePayload", () => {
  it("is null for a message without a body", async () => {
    assert.equal(await decodePayload(topic, wire({ body: null })), null);
  });

  it("says which topic's codec failed, and keeps the codec's error as the cause", async () => {
    const cause = new RangeError("odd");
    const broken = defineTopic("t", {
      codec: {
        contentType: "x",
        encode: () => Uint8Array.of(),
        decode: () => {
          throw cause;
        },
      },
    });

    const error = await messagingErrorOf("ERR_DECODE", () => decodePayload(broken, wire()));
    assert.equal(error.cause, cause);
    assert.match(error.message, /body of topic "t" cannot be decoded/u);
  });

  it("never lets a codec of the user's own at the bytes that a retry sends on", async () => {
    const sharing = defineTopic("t", {
      codec: { contentType: "x", encode: () => Uint8Array.of(), decode: (body: Uint8Array) => body },
    });
    const message = wire({ body: Uint8Array.of(1, 2, 3) });

    const payload = (await decodePayload(sharing, message)) as Uint8Array;
    payload.fill(0);

    assert.deepEqual([...(message.body ?? [])], [1, 2, 3]);
  });
});
