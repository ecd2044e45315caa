import assert from "node:assert/strict";
import { describe, it } from "vitest";
import { isPlainObject, redact, redactUrl, show, textOf } from "../../src/inspect.ts";

const trap = (): never => assert.fail("touched");
const revoked = Proxy.revocable({}, {});
revoked.revoke();
const hostile: readonly unknown[] = [
  new Proxy({}, { get: trap, has: trap, ownKeys: trap, getPrototypeOf: trap }),
  revoked.proxy,
  Object.create(null),
  { toString: trap, [Symbol.toPrimitive]: trap },
  Object.assign(() => 1, { toString: trap }),
];

describe("show", () => {
  it("is one short line whatever it is given, and never reads into it", () => {
    const values = [
      "x".repeat(1_000),
      "two\nlines",
      Symbol("s"),
      10n,
      null,
      undefined,
      [1],
      () => 1,
      ...hostile,
    ];

    for (const value of values) assert.match(show(value), /^.{1,100}$/u);
    assert.equal(show("a\nb"), '"a\\nb"');
    assert.equal(show({ secret: 1 }), "an object");
  });
});

describe("textOf", () => {
  it("is the message of an error, and words for anything else", () => {
    assert.deepEqual([new Error("broken"), "text", null, undefined, 7, Symbol("s")].map(textOf), [
      "broken",
      "text",
      "null",
      "undefined",
      "7",
      "Symbol(s)",
    ]);
  });

  it("never throws", () => {
    for (const value of hostile) assert.match(textOf(value), /./u);
  });
});

describe("isPlainObject", () => {
  it("tells objects that are only data from everything else", () => {
    assert.ok([{}, Object.create(null), JSON.parse('{"a":1}')].every(isPlainObject));
    assert.ok(
      ![
        [],
        null,
        new Map(),
        new Date(),
        new (class Money {
          readonly cents = 5;
        })(),
        "x",
        () => 1,
      ].some(isPlainObject),
    );
  });
});

describe("redactUrl", () => {
  it("knows that all of it is the URL", () => {
    assert.equal(redactUrl("amqps://user:hunt er\n2@host:port"), "amqps://user:***@host:port");
    assert.equal(redactUrl("amqps://host:5671/vhost"), "amqps://host:5671/vhost");
  });
});

describe("redact", () => {
  it.each([
    ["amqp://user:hunter2@host:5672/vhost", "amqp://user:***@host:5672/vhost"],
    ["redis://:hunter2@host", "redis://:***@host"],
    ["amqp://user:hunt@er2@host/v", "amqp://user:***@host/v"],
    ["amqp://user:hunt/er2@host", "amqp://user:***@host"],
    ["amqp://user:hunt:er2@host", "amqp://user:***@host"],
    ["amqp:/user:hunter2@host", "amqp:/user:***@host"],
    ["amqp:user:hunter2@host", "amqp:user:***@host"],
    ["amqp://u:hunter2@a,u:hunter2@b", "amqp://u:***@b"],
    [
      "cannot reach amqp://u:hunter2@a, ask ops@example.com",
      "cannot reach amqp://u:***@a, ask ops@example.com",
    ],
    ["kafka://host:9092?password=hunter2", "kafka://host:9092?password=***"],
    ["login failed: password = hunter2 (user=app)", "login failed: password = *** (user=app)"],
    ['{"user":"app","password":"hunt er2","db":"x"}', '{"user":"app","password":***,"db":"x"}'],
    ["Authorization: Bearer hunter2", "Authorization: ***"],
    ["authorization=Basic hunter2 retry", "authorization=*** retry"],
    ["access_token=hunter2 client_secret: hunter2", "access_token=*** client_secret: ***"],
    ["X-Api-Key: hunter2", "X-Api-Key: ***"],
  ])("shows %s as %s", (text, shown) => {
    assert.equal(redact(text), shown);
  });

  it.each([
    "amqp://localhost:5672",
    "sqlite:./app.db",
    "Unexpected token in JSON",
    "no such key",
    "a@b: c@d",
  ])("leaves %s alone", (text) => {
    assert.equal(redact(text), text);
  });

  it("takes no longer for text made to slow it down", () => {
    const text = "//a:".repeat(1_000) + "password:".repeat(1_000);

    assert.ok(redact(text).length > 0);
  });
});
