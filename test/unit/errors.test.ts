import assert from "node:assert/strict";
import * as postrider from "postrider";
import { MessagingError, NonRetryableError, PublishError } from "postrider";
import { describe, it } from "vitest";
import { type ErrorCode, errorCodes } from "../../src/errors.ts";

/** Every class with what makes one of each of its codes. A class that is missing here fails the first test. */
const classes: Readonly<
  Record<string, readonly (readonly [ErrorCode, (cause: unknown) => MessagingError])[]>
> = {
  ConfigurationError: (["ERR_CONFIG", "ERR_CAPABILITY", "ERR_DEPENDENCY", "ERR_DELAY"] as const).map(
    (code) => [code, (cause) => new postrider.ConfigurationError(code, "m", { cause })],
  ),
  LifecycleError: (["ERR_NOT_STARTED", "ERR_DRAINING", "ERR_CLOSED"] as const).map((code) => [
    code,
    (cause) => new postrider.LifecycleError(code, "m", { cause }),
  ]),
  CodecError: (
    ["ERR_ENCODE", "ERR_DECODE", "ERR_VALIDATION", "ERR_HEADER", "ERR_ID", "ERR_TOO_LARGE"] as const
  ).map((code) => [code, (cause) => new postrider.CodecError(code, "m", { cause })]),
  TransportError: (
    [
      "ERR_CONNECT",
      "ERR_CONNECTION_LOST",
      "ERR_AUTH",
      "ERR_TLS",
      "ERR_BROKER",
      "ERR_BROKER_FULL",
      "ERR_TOPOLOGY",
      "ERR_DESTINATION",
    ] as const
  ).map((code) => [code, (cause) => new postrider.TransportError(code, "m", { cause })]),
  PublishError: (["ERR_PUBLISH", "ERR_NO_ROUTE", "ERR_BACKLOG"] as const).map((code) => [
    code,
    (cause) => new PublishError(code, "m", { cause, accepted: "no", messageId: "1" }),
  ]),
  SettleError: [["ERR_SETTLE", (cause) => new postrider.SettleError("m", { cause })]],
  StoreError: (["ERR_STORE", "ERR_SCHEMA", "ERR_TX", "ERR_CLAIM_HELD", "ERR_LEASE_LOST"] as const).map(
    (code) => [code, (cause) => new postrider.StoreError(code, "m", { cause })],
  ),
  HandlerTimeoutError: [["ERR_TIMEOUT", (cause) => new postrider.HandlerTimeoutError("m", { cause })]],
  NonRetryableError: [["ERR_NON_RETRYABLE", (cause) => new NonRetryableError("m", { cause })]],
};

const cases = Object.entries(classes).flatMap(([name, made]) =>
  made.map(([code, make]) => ({ name, code, make })),
);

describe("the errors", () => {
  it("are all in the table, with all their codes", () => {
    const exported = Object.entries(postrider)
      .filter(([name]) => name.endsWith("Error") && name !== "MessagingError")
      .map(([name]) => name);

    assert.deepEqual(exported.toSorted(), Object.keys(classes).toSorted());
    assert.deepEqual(cases.map(({ code }) => code).toSorted(), Object.keys(errorCodes).toSorted());
  });

  it.each(cases)("$name carries $code, its default of retryable, and the cause", ({ name, code, make }) => {
    const cause = new Error("driver");
    const error = make(cause);

    assert.deepEqual(
      [error.name, error.code, error.retryable, error.cause, error.message],
      [name, code, errorCodes[code], cause, "m"],
    );
    assert.ok(error instanceof MessagingError && error instanceof Error);
    assert.ok(MessagingError.is(error));
    assert.match(error.stack ?? "", new RegExp(`^${name}: m`, "u"));
  });

  it("have no cause at all when there is none", () => {
    assert.equal("cause" in new postrider.SettleError("m"), false);
  });

  it("may be more hopeful, or less, than their code", () => {
    assert.equal(new postrider.TransportError("ERR_BROKER", "m", { retryable: false }).retryable, false);
    assert.equal(new postrider.TransportError("ERR_AUTH", "m", { retryable: true }).retryable, true);
  });

  it("say of a publish whether the broker may have the message, and its id", () => {
    const error = new PublishError("ERR_TIMEOUT", "m", { accepted: "unknown", messageId: "id-1" });

    assert.deepEqual([error.accepted, error.messageId], ["unknown", "id-1"]);
  });
});

describe("MessagingError.is", () => {
  it("recognises an error that a second copy of the package made", async () => {
    const copy = (await import(`../../src/errors.ts?copy=${"second" as string}`)) as typeof postrider;
    const foreign = new copy.NonRetryableError("no");

    assert.equal(foreign instanceof MessagingError, false);
    assert.ok(MessagingError.is(foreign));
    assert.equal(foreign.code, "ERR_NON_RETRYABLE");
  });

  it.each([
    null,
    undefined,
    "ERR_CONFIG",
    1,
    {},
    new Error("e"),
    { code: "ERR_CONFIG" },
    Object.create(null),
  ])("is not fooled by %s", (value) => {
    assert.equal(MessagingError.is(value), false);
  });

  it("answers for an object that throws at every touch", () => {
    const trap = (): never => {
      throw new Error("touched");
    };
    const hostile = new Proxy({}, { has: trap, get: trap, getPrototypeOf: trap });

    assert.equal(MessagingError.is(hostile), false);
  });
});
