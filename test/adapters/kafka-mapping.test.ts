/** Records and messages, the client's errors and ours, and what `kafka(…)` takes. */
import assert from "node:assert/strict";
import * as fc from "fast-check";
import type { KafkaMessage } from "kafkajs";
import { type MessagingError, headerMap } from "postrider/spi";
import { describe, it } from "vitest";
import { isNotStored, isRefusal, kafkaError } from "../../adapters/kafka/errors.ts";
import {
  asDeadLetter,
  copyRecord,
  fromDeadLetter,
  fromRecord,
  privateHeader,
  toRecord,
} from "../../adapters/kafka/mapping.ts";
import { checkOptions } from "../../adapters/kafka/options.ts";

/** A record as the client gives it. */
function record(given: Partial<Record<keyof KafkaMessage, unknown>>): KafkaMessage {
  return {
    key: null,
    value: null,
    timestamp: "0",
    attributes: 0,
    offset: "0",
    headers: {},
    ...given,
  } as never;
}

describe("mapping", () => {
  it("brings a message back as it was", () => {
    const text = fc.string({ unit: "grapheme" });
    const map = fc.dictionary(fc.stringMatching(/^[a-z][a-z0-9]{0,9}$/), text, { noNullPrototype: true });
    fc.assert(
      fc.property(
        map,
        map,
        fc.option(text, { nil: undefined }),
        fc.option(fc.uint8Array()),
        (attributes, headers, key, body) => {
          const wire = { attributes, headers, key, body };
          const { key: recordKey, value, headers: recordHeaders } = toRecord(wire);
          const read = fromRecord(record({ key: recordKey, value, headers: asFetched(recordHeaders) }));
          assert.deepEqual({ ...read.attributes }, attributes);
          assert.deepEqual({ ...read.headers }, headers);
          assert.equal(read.key, key);
          assert.deepEqual(read.body === null ? null : [...read.body], body === null ? null : [...body]);
        },
      ),
    );
  });

  it("reads headers that the client or a foreign producer makes odd", () => {
    const wire = fromRecord(
      record({
        key: Buffer.of(0xff, 0xfe),
        headers: {
          twice: [Buffer.from("one"), Buffer.from("two")],
          // The client looks a name up in an object with a prototype.
          constructor: [Object, Buffer.from("mine")],
          empty: null,
          binary: Buffer.of(0xc3, 0x28),
          "content-type": Buffer.from("text/plain"),
          "pr-kafka-due": Buffer.from("1"),
        },
      }),
    );
    assert.deepEqual(
      { ...wire.headers },
      { twice: "two", constructor: "mine", empty: "", binary: Buffer.of(0xc3, 0x28).toString("base64") },
    );
    assert.deepEqual({ ...wire.attributes }, { datacontenttype: "text/plain" });
    assert.equal(wire.key, "//4=");
  });

  it("moves a record to the byte, with only what is patched changed", () => {
    const binary = Buffer.of(0xc3, 0x28);
    const moved = copyRecord(
      record({
        key: binary,
        value: binary,
        headers: {
          twice: [binary, binary],
          gone: Buffer.from("x"),
          kept: binary,
          "pr-kafka-due": Buffer.from("1"),
        },
      }),
      { gone: undefined, "pr-failures": "2" },
    );
    assert.deepEqual({ ...moved.headers }, { twice: [binary, binary], kept: [binary], "pr-failures": "2" });
    assert.equal(moved.key, binary);
    assert.equal(moved.value, binary);
  });

  it("keeps key and null body through a dead letter", () => {
    for (const body of [null, Uint8Array.of(), Uint8Array.of(1)]) {
      const wire = { attributes: headerMap({ id: "1" }), headers: headerMap(), key: "k", body };
      const letter = asDeadLetter(toRecord(wire), "0:1");
      assert.notEqual(letter.value, null, "it would be a tombstone");
      const read = fromDeadLetter(record({ ...letter, headers: asFetched(letter.headers) }));
      assert.deepEqual(
        [read.key, read.body === null ? null : [...read.body]],
        ["k", body === null ? null : [...body]],
      );
      assert.ok(
        !Object.keys(read.headers).some((name) => Object.values(privateHeader).includes(name as never)),
      );
    }
  });

  /** The client gives every value as a buffer. */
  function asFetched(headers: Readonly<Record<string, unknown>>): Record<string, unknown> {
    return Object.fromEntries(
      Object.entries(headers).map(([name, value]) => [name, Buffer.from(value as string)]),
    );
  }
});

describe("errors", () => {
  const chain = (...levels: readonly object[]): Error =>
    levels
      .toReversed()
      .reduce<Error | undefined>(
        (cause, level) => Object.assign(new Error("x", { cause }), level),
        undefined,
      ) ?? new Error();
  const mapped = (error: unknown): [string, boolean] => {
    const { code, retryable } = kafkaError("cannot", error, "ERR_BROKER") satisfies MessagingError;
    return [code, retryable];
  };

  it("are told by what is at the end of the chain of causes", () => {
    const exceeded = { name: "KafkaJSNumberOfRetriesExceeded", retriable: false };
    assert.deepEqual(mapped(chain({ name: "KafkaJSSASLAuthenticationError" })), ["ERR_AUTH", false]);
    assert.deepEqual(mapped(chain(exceeded, { type: "TOPIC_AUTHORIZATION_FAILED" })), ["ERR_AUTH", false]);
    for (const code of [
      "SELF_SIGNED_CERT_IN_CHAIN",
      "ERR_TLS_CERT_ALTNAME_INVALID",
      "CERT_HAS_EXPIRED",
      "ERR_SSL_SSL/TLS_ALERT_BAD_CERTIFICATE",
    ])
      assert.deepEqual(mapped(chain(exceeded, { code })), ["ERR_TLS", false], code);
    assert.deepEqual(mapped(chain({ type: "MESSAGE_TOO_LARGE" })), ["ERR_TOO_LARGE", false]);
    assert.deepEqual(mapped(chain(exceeded, { type: "UNKNOWN_TOPIC_OR_PARTITION" })), [
      "ERR_DESTINATION",
      false,
    ]);
    assert.deepEqual(mapped(chain(exceeded, { code: "ECONNREFUSED" })), ["ERR_BROKER", true]);
    assert.deepEqual(
      mapped(Object.assign(new Error(), { errors: [{ type: "INVALID_REPLICATION_FACTOR" }] })),
      ["ERR_TOPOLOGY", false],
    );
  });

  it("say that a batch was not stored only when that is sure", () => {
    for (const type of ["MESSAGE_TOO_LARGE", "NOT_ENOUGH_REPLICAS", "NOT_LEADER_FOR_PARTITION"])
      assert.ok(isNotStored(chain({ type })), type);
    for (const type of [
      "REQUEST_TIMED_OUT",
      "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
      "OUT_OF_ORDER_SEQUENCE_NUMBER",
      "NETWORK_EXCEPTION",
    ])
      assert.ok(!isNotStored(chain({ type })), type);
    assert.ok(isRefusal(chain({ type: "MESSAGE_TOO_LARGE" })));
    assert.ok(!isRefusal(chain({ type: "NOT_ENOUGH_REPLICAS" })));
  });
});

describe("options", () => {
  it("are read from a URL", () => {
    const options = checkOptions({
      url: "kafka://al%40ice:p%3Aw@b1:9093,b2?tls=true&sasl=scram-sha-512&clientId=shop",
    });
    assert.deepEqual(options.brokers, ["b1:9093", "b2:9092"]);
    assert.deepEqual(options.sasl, { mechanism: "scram-sha-512", username: "al@ice", password: "p:w" });
    assert.deepEqual([options.tls, options.clientId], [{ rejectUnauthorized: true }, "shop"]);
  });

  it("are refused by name, and never with a password", () => {
    const wrong: readonly (readonly [unknown, RegExp])[] = [
      [{}, /url or brokers/],
      [{ url: "kafka://a", brokers: ["a"] }, /url or brokers/],
      [{ brokers: [] }, /brokers/],
      [{ brokers: ["[::1]:9092"] }, /host:port/],
      [{ brokers: ["a:0"] }, /host:port/],
      [{ url: "amqp://a" }, /must name its brokers/],
      [{ url: "kafka://user:hunter2@a" }, /sasl=plain or/],
      [{ url: "kafka://user:hunter2@a?sasl=basic" }, /sasl=plain or/],
      [{ url: "kafka://a?tls=maybe" }, /tls=true/],
      [{ url: "kafka://a?tlss=true" }, /did you mean "tls"/],
      [{ brokers: ["a"], replicationfactor: 2 }, /did you mean "replicationFactor"/],
      [{ brokers: ["a"], replicationFactor: 0 }, /replicationFactor/],
      [{ brokers: ["a"], tls: "yes" }, /kafka tls/],
      [{ brokers: ["a"], sasl: { mechanism: "magic" } }, /sasl.mechanism/],
      [{ brokers: ["a"], sasl: { mechanism: "plain", username: "u" } }, /sasl.password/],
      [{ brokers: ["a"], clientId: "" }, /clientId/],
      [{ brokers: ["a"], maxMessageBytes: 1 }, /maxMessageBytes/],
    ];
    for (const [options, message] of wrong) {
      assert.throws(
        () => checkOptions(options as never),
        (error: MessagingError) => {
          assert.equal(error.code, "ERR_CONFIG");
          assert.match(error.message, message);
          assert.ok(!error.message.includes("hunter2"));
          return true;
        },
        JSON.stringify(options),
      );
    }
  });
});
