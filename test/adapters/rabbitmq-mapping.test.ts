import type { MessageProperties } from "amqplib";
import { describe, expect, test } from "vitest";
import {
  headerLimits,
  redeliveriesOf,
  toProperties,
  toWireMessage,
} from "../../adapters/rabbitmq/mapping.ts";
import { headerMap, type WireMessage } from "../../src/spi.ts";

const properties = (given: Partial<MessageProperties>): MessageProperties => given as MessageProperties;

const message = (given: Partial<WireMessage>): WireMessage => ({
  attributes: headerMap(),
  headers: headerMap(),
  key: undefined,
  body: new Uint8Array(),
  ...given,
});

describe("a message of ours", () => {
  const ours = message({
    attributes: headerMap({
      specversion: "1.0",
      id: "id-1",
      source: "shop",
      type: "order.placed",
      time: "2026-01-02T03:04:05.678Z",
      datacontenttype: "application/json",
      partitionkey: "k",
    }),
    headers: headerMap({ tenant: "acme", "pr-failures": "2", constructor: "x" }),
    key: "k",
    body: Uint8Array.of(1, 2, 3),
  });

  test("is CloudEvents in binary mode for whoever reads it", () => {
    expect(toProperties(ours, headerLimits.publish)).toEqual({
      contentType: "application/json",
      messageId: "id-1",
      timestamp: Math.floor(Date.UTC(2026, 0, 2, 3, 4, 5) / 1_000),
      headers: {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": "id-1",
        "cloudEvents:source": "shop",
        "cloudEvents:type": "order.placed",
        "cloudEvents:time": "2026-01-02T03:04:05.678Z",
        "cloudEvents:partitionkey": "k",
        tenant: "acme",
        "pr-failures": "2",
        constructor: "x",
      },
    });
  });

  test("is read back as it was", () => {
    const written = toProperties(ours, headerLimits.publish) as Partial<MessageProperties>;

    expect(toWireMessage(properties(written), Buffer.from([1, 2, 3]))).toEqual(ours);
  });

  test("is read with the other spelling of the binding as well", () => {
    const headers = { cloudEvents_id: "id-1", cloudEvents_type: "t" };

    const { attributes } = toWireMessage(properties({ headers }), Buffer.alloc(0));

    expect({ ...attributes }).toEqual({ id: "id-1", type: "t" });
  });

  test("keeps an id or content type that is too long for a property", () => {
    const attributes = headerMap({ id: "é".repeat(200), datacontenttype: `x/${"y".repeat(300)}` });

    const written = toProperties(message({ attributes }), headerLimits.publish) as Partial<MessageProperties>;

    expect([written.messageId, written.contentType]).toEqual([undefined, undefined]);
    expect(toWireMessage(properties(written), Buffer.alloc(0)).attributes).toEqual(attributes);
  });

  test.each(["CC", "BCC"])("is refused with the header %s, which would send copies elsewhere", (name) => {
    const written = toProperties(message({ headers: headerMap({ [name]: "x" }) }), headerLimits.publish);

    expect(written).toMatchObject({ unwritable: expect.stringContaining(`"${name}"`) as string });
  });

  test("is refused when its headers are more bytes than fit, though not more characters", () => {
    const headers = headerMap([...Array(10).keys()].map((i) => [`h${i}`, "漢".repeat(2_000)] as const));

    expect(toProperties(message({ headers }), headerLimits.publish)).toHaveProperty("unwritable");
    expect(toProperties(message({ headers }), headerLimits.copy)).not.toHaveProperty("unwritable");
  });
});

describe("a message of a stranger", () => {
  test("is read with what AMQP's own properties say", () => {
    const given = { messageId: "m-1", contentType: "text/plain", timestamp: 1_767_225_600 };

    const { attributes, headers } = toWireMessage(properties(given), Buffer.from("hi"));

    expect({ ...attributes }).toEqual({
      id: "m-1",
      datacontenttype: "text/plain",
      time: "2026-01-01T00:00:00.000Z",
    });
    expect({ ...headers }).toEqual({});
  });

  test("has headers of any type, and all are text", () => {
    const deep = JSON.parse(`${'{"a":'.repeat(20_000)}1${"}".repeat(20_000)}`) as unknown;
    const headers = {
      text: "é",
      number: 1.5,
      yes: true,
      nothing: null,
      bytes: Buffer.from("bytes"),
      at: { "!": "timestamp", value: 0 },
      far: { "!": "timestamp", value: 1e18 },
      table: { a: [1, { b: "c" }] },
      deep,
    };

    expect({ ...toWireMessage(properties({ headers }), Buffer.alloc(0)).headers }).toEqual({
      text: "é",
      number: "1.5",
      yes: "true",
      nothing: "",
      bytes: "bytes",
      at: "1970-01-01T00:00:00.000Z",
      far: "1000000000000000000",
      table: '{"a":[1,{"b":"c"}]}',
      deep: "",
    });
  });

  test("has headers without end, and they are bounded", () => {
    const many = Object.fromEntries([...Array(10_000).keys()].map((i) => [`h${i}`, "x"]));
    const large = { large: "x".repeat(1_048_576) };

    const ofMany = toWireMessage(properties({ headers: many }), Buffer.alloc(0)).headers;
    const ofLarge = toWireMessage(properties({ headers: large }), Buffer.alloc(0)).headers;

    expect(Object.keys(ofMany).length).toBeLessThan(6_000);
    expect(ofLarge["large"]?.length).toBe(8_192);
  });

  test("cannot change what any object has", () => {
    const headers = JSON.parse('{"__proto__":{"admin":true},"constructor":"x"}') as Record<string, unknown>;

    const read = toWireMessage(properties({ headers }), Buffer.alloc(0));

    expect(({} as { admin?: unknown }).admin).toBeUndefined();
    expect(read.headers["constructor"]).toBe("x");
  });
});

test("nothing the server wrote about its own doings is carried on", () => {
  const headers = {
    "x-death": [],
    "x-first-death-queue": "q",
    "x-last-death-reason": "expired",
    "x-delivery-count": 3,
    "x-acquired-count": 4,
    "pr-delay-3": 1,
    CC: ["elsewhere"],
    "x-tenant": "acme",
  };

  expect({ ...toWireMessage(properties({ headers }), Buffer.alloc(0)).headers }).toEqual({
    "x-tenant": "acme",
  });
});

test.each([
  ["on the first delivery", {}, false, 0],
  ["counted by the server", { "x-delivery-count": 4 }, true, 4],
  ["given back on 4.3 and later, which is no failed delivery", { "x-acquired-count": 2 }, true, 0],
  ["crashed once and given back twice on 4.3", { "x-acquired-count": 3, "x-delivery-count": 1 }, true, 1],
  ["from a queue that only knows that it was redelivered", {}, true, 1],
  ["with a forged count", { "x-delivery-count": "many" }, false, 0],
])("redeliveries: %s", (_what, headers, redelivered, expected) => {
  expect(redeliveriesOf(properties({ headers }), redelivered)).toBe(expected);
});
