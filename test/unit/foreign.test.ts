import assert from "node:assert/strict";
import { constant, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { header } from "../../src/headers.ts";
import { type TestBus, openBus, publishForeign, settle, until } from "./support/bus.ts";
import type { WireParts } from "./support/wire.ts";

const topic = defineTopic<{ n: number }>("t");
const group = "g";
let names = 0;

/** A bus on a broker where somebody else has put these messages. */
async function receiving(...messages: WireParts[]): Promise<TestBus> {
  const name = `foreign-${(names += 1)}`;
  const world = openBus({ adapter: memory({ name }) });
  await world.bus.declare({ groups: { [group]: [topic] } });
  await publishForeign(name, "t", ...messages);
  return world;
}

describe("a message of a producer that does not use the library", () => {
  it("is handled like any other, as attempt 1, with an id of its position", async () => {
    const world = await receiving({ body: '{"n":1}', headers: { tenant: "acme" }, key: "k" });
    const seen: unknown[] = [];
    await world.bus.consume(topic, { group }, ({ n }, { attempt, message }) => {
      seen.push([n, attempt, message.id.startsWith("t:"), message.key, { ...message.headers }]);
    });
    await settle(world.runtime);

    assert.deepEqual(seen, [[1, 1, true, "k", { tenant: "acme" }]]);
  });

  it("keeps its id through retries and into the dead letters", async () => {
    const world = await receiving({ body: '{"n":1}' });
    const ids: string[] = [];
    const retry = { maxAttempts: 3, backoff: constant("10s") };
    await world.bus.consume(topic, { group, retry }, (_payload, { message }) => {
      ids.push(message.id);
      throw new Error("again");
    });
    await world.runtime.advance(60_000);

    const [letter] = await Array.fromAsync(world.bus.deadLetters(topic, { group }).list());
    assert.equal(new Set([...ids, letter?.message.id]).size, 1);
    assert.equal(ids.length, 3);
  });

  it("without a body is null", async () => {
    const world = await receiving({ body: null });
    const payloads: unknown[] = [];
    await world.bus.consume(topic, { group }, (payload) => void payloads.push(payload));
    await settle(world.runtime);

    assert.deepEqual(payloads, [null]);
  });

  it("two of them without ids are two messages", async () => {
    const world = await receiving({ body: '{"n":1}' }, { body: '{"n":1}' });
    let count = 0;
    await world.bus.consume(topic, { group }, () => void (count += 1));
    await settle(world.runtime);

    assert.equal(count, 2);
  });
});

describe("a message that cannot be read", () => {
  it.each([
    ["no JSON", "{ broken"],
    ["nothing", ""],
    ["invalid UTF-8", Uint8Array.of(0xff, 0xfe)],
    ["a prototype in disguise", '{"__proto__":{"admin":true}}'],
    ["a bottomless pit", "[".repeat(5_000)],
  ])(
    "(%s) is dead-lettered with its bytes, without retries, and the next one is handled",
    async (_what, body) => {
      const world = await receiving({ body }, { body: '{"n":1}' });
      const payloads: unknown[] = [];
      await world.bus.consume(topic, { group }, (payload) => void payloads.push(payload));
      await settle(world.runtime);

      assert.deepEqual(payloads, [{ n: 1 }]);
      assert.deepEqual(world.outcomes().toSorted(), ["deadLettered", "handled"]);
      const [letter] = await Array.fromAsync(world.bus.deadLetters(topic, { group }).list());
      assert.deepEqual(
        [letter?.reason, letter?.attempts, letter?.message.payload],
        ["invalid", 1, undefined],
      );
      assert.equal(letter?.error.code, "ERR_DECODE");
      assert.deepEqual(Buffer.from(letter?.body ?? []), Buffer.from(body as string));
      assert.equal(Object.hasOwn(Object.prototype, "admin"), false);
    },
  );

  it("because it does not match the schema is dead-lettered without retries", async () => {
    const name = "foreign-schema";
    const world = openBus({ adapter: memory({ name }) });
    const { z } = await import("zod");
    const strict = defineTopic("t", { schema: z.object({ n: z.number() }) });
    await world.bus.declare({ groups: { [group]: [strict] } });
    await publishForeign(name, "t", { body: '{"n":"hunter2"}' }, { body: '{"n":1}' });
    let count = 0;
    await world.bus.consume(strict, { group }, () => void (count += 1));
    await settle(world.runtime);

    const [letter] = await Array.fromAsync(world.bus.deadLetters(strict, { group }).list());
    assert.deepEqual([letter?.reason, letter?.error.code, count], ["invalid", "ERR_VALIDATION", 1]);
    assert.doesNotMatch(letter?.error.message ?? "", /hunter2/u);
  });
});

describe("a message with forged headers of ours", () => {
  it.each<[string, Record<string, string>]>([
    ["attempts beyond counting", { [header.failures]: "1e300", [header.redeliveries]: "999999999999" }],
    ["negative attempts", { [header.failures]: "-5" }],
    ["attempts that are no number", { [header.failures]: "abc" }],
    ["a first failure at the beginning of time", { [header.firstFailureAt]: "1" }],
    ["a first failure in a thousand years", { [header.firstFailureAt]: "8000000000000000" }],
    ["to be handled in a thousand years", { [header.notBefore]: "8000000000000000" }],
    ["redrives beyond counting", { [header.redrives]: "1e300" }],
    ["a dead letter's headers", { [header.reason]: "exhausted", [header.group]: "other" }],
  ])("(%s) is handled, once, and does not see them", async (_what, headers) => {
    const world = await receiving({ body: '{"n":1}', headers });
    const seen: unknown[] = [];
    await world.bus.consume(
      topic,
      { group },
      (_payload, { message }) => void seen.push({ ...message.headers }),
    );
    await world.runtime.advance(1_000);

    assert.deepEqual(seen, [{}]);
    assert.deepEqual(world.outcomes(), ["handled"]);
  });

  it("that fails ends in the dead letters all the same", async () => {
    const world = await receiving({ body: '{"n":1}', headers: { [header.failures]: "1e300" } });
    await world.bus.consume(topic, { group }, () => {
      throw new Error("always");
    });
    await world.runtime.advance(3_600_000);

    assert.equal(world.of("deadLettered").length, 1);
  });
});

describe("a message with hostile headers and attributes", () => {
  it("is bounded, harms nobody, and is handled", async () => {
    const many = Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`h${i}`, "v"]));
    const names = JSON.parse('{"__proto__":"x","constructor":"y","toString":"z","":"empty"}') as Record<
      string,
      string
    >;
    const world = await receiving(
      { body: '{"n":1}', headers: { ...many, ...names, large: "x".repeat(1_000_000) } },
      { body: '{"n":2}', attributes: { id: "x".repeat(1_000_000), time: "yesterday", ...names } },
      { body: '{"n":3}', attributes: { id: "\u0000\n", correlationid: "\ud800", partitionkey: "" } },
    );
    const got: number[] = [];
    const answers = defineTopic<number>("answers");
    await world.bus.consume(topic, { group }, async ({ n }, context) => {
      got.push(n);
      assert.ok(context.message.id.length <= 255);
      await context.publish(answers, n);
    });
    await until(world.runtime, () => world.of("handled").length === 3);

    assert.deepEqual(new Set(got), new Set([1, 2, 3]));
    assert.equal(({} as Record<string, unknown>)["x"], undefined);
  });

  it("with an empty idempotency key is not taken for a duplicate of every other one that has it", async () => {
    const world = await receiving(
      { body: '{"n":1}', attributes: { id: "1", idempotencykey: "" } },
      { body: '{"n":2}', attributes: { id: "2", idempotencykey: "" } },
    );
    const keys: (string | undefined)[] = [];
    await world.bus.consume(
      topic,
      { group },
      (_payload, { message }) => void keys.push(message.idempotencyKey),
    );
    await settle(world.runtime);

    assert.deepEqual(keys, [undefined, undefined]);
  });
});
