import assert from "node:assert/strict";
import { type DeadLetter, deadLetter, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { describe, it } from "vitest";
import { z } from "zod";
import { header } from "../../src/headers.ts";
import { type TestBus, openBus, settle, until } from "./support/bus.ts";
import { errorOf, messagingErrorOf } from "./support/errors.ts";
import { failing, fatalError } from "./support/faults.ts";

const topic = defineTopic<number>("t");
const group = "g";

/** A bus with dead letters of these payloads, and a consumer that takes what is redriven. */
async function withLetters(
  count: number,
  adapter = memory(),
): Promise<TestBus & { readonly handled: number[] }> {
  const world = openBus({ adapter });
  const handled: number[] = [];
  await world.bus.consume(topic, { group, concurrency: 1, prefetch: 1_000 }, (n, { message }) => {
    if (message.redrives === 0) return deadLetter(`odd ${n}`);
    handled.push(n);
    return undefined;
  });
  await world.bus.publishAll(
    topic,
    Array.from({ length: count }, (_, i) => i),
    { headers: { tenant: "acme" } },
  );
  await until(world.runtime, () => world.of("deadLettered").length === count);
  return Object.assign(world, { handled });
}

const lettersOf = (world: TestBus): Promise<DeadLetter<number>[]> =>
  Array.fromAsync(world.bus.deadLetters(topic, { group }).list());

describe("list", () => {
  it("gives letters oldest first, with what is known of them", async () => {
    const world = await withLetters(3);

    const letters = await lettersOf(world);

    assert.deepEqual(
      letters.map(({ reason, message }) => [reason, message.payload]),
      [
        ["odd 0", 0],
        ["odd 1", 1],
        ["odd 2", 2],
      ],
    );
    const [first] = letters;
    assert.deepEqual([first?.topic, first?.group, first?.attempts, first?.redrives], ["t", "g", 1, 0]);
    assert.deepEqual({ ...first?.message.headers }, { tenant: "acme" });
    assert.equal(first?.deadLetteredAt?.getTime(), world.runtime.now());
  });

  it("takes letters by id, by a condition, and no more than asked for", async () => {
    const world = await withLetters(250);
    const ids = (await lettersOf(world)).slice(100, 103).map(({ message }) => message.id);
    const dlq = world.bus.deadLetters(topic, { group });
    const payloads = async (options: Parameters<typeof dlq.list>[0]): Promise<unknown[]> =>
      (await Array.fromAsync(dlq.list(options))).map(({ message }) => message.payload);

    assert.deepEqual(await payloads({ ids }), [100, 101, 102]);
    assert.deepEqual(await payloads({ where: ({ message }) => (message.payload ?? 0) >= 248 }), [248, 249]);
    assert.deepEqual(
      await payloads({ limit: 2, where: ({ message }) => (message.payload ?? 0) > 120 }),
      [121, 122],
    );
    assert.equal((await payloads({ limit: 100 })).length, 100);
    assert.deepEqual(await payloads({ ids: [] }), []);
  });

  it("looks no further than its limit needs", async () => {
    const broker = memory();
    let reads = 0;
    const adapter = {
      ...broker,
      openDeadLetters: (async (spec) => {
        const cursor = await broker.openDeadLetters(spec);
        return { ...cursor, read: (limit) => ((reads += 1), cursor.read(limit)) };
      }) as typeof broker.openDeadLetters,
    };
    const world = await withLetters(250, adapter);

    await Array.fromAsync(world.bus.deadLetters(topic, { group }).list({ limit: 100 }));

    assert.equal(reads, 1);
  });

  it("closes its cursor when the loop ends early, or throws", async () => {
    const broker = memory();
    let open = 0;
    const adapter = {
      ...broker,
      openDeadLetters: (async (spec) => {
        const cursor = await broker.openDeadLetters(spec);
        open += 1;
        return { ...cursor, close: async () => void (open -= 1) };
      }) as typeof broker.openDeadLetters,
    };
    const world = await withLetters(3, adapter);
    const dlq = world.bus.deadLetters(topic, { group });

    for await (const letter of dlq.list()) if (letter.reason !== "") break;
    await errorOf(() => dlq.redrive({ where: () => assert.fail("condition") }));
    await errorOf(() => dlq.redrive({ signal: AbortSignal.abort() }));

    assert.equal(open, 0);
  });
});

describe("redrive", () => {
  it("sends letters back to their group, once, with attempts reset and everything else as it was", async () => {
    const world = await withLetters(3);
    const seen: unknown[] = [];
    await world.bus.consume(topic, { group: "other" }, () => undefined);
    await settle(world.runtime);
    const [first] = await lettersOf(world);
    world.bus.use(async (context, next) => {
      seen.push([
        context.attempt,
        context.message.redrives,
        context.message.id,
        { ...context.message.headers },
      ]);
      return next();
    });
    await world.bus.consume(topic, { group }, () => undefined);

    const report = await world.bus.deadLetters(topic, { group }).redrive({ limit: 1 });
    await settle(world.runtime);

    assert.deepEqual(report, { matched: 1, redriven: 1 });
    assert.equal(world.handled.length + seen.length, 1);
    if (seen.length > 0) assert.deepEqual(seen, [[1, 1, first?.message.id, { tenant: "acme" }]]);
    assert.equal((await lettersOf(world)).length, 2);
  });

  it("leaves no trace of the dead letter in the message but the count", async () => {
    const world = await withLetters(1);
    await world.bus.deadLetters(topic, { group }).redrive();
    await until(world.runtime, () => world.handled.length === 1);

    assert.equal(world.of("redriven").length, 1);
    assert.deepEqual(await lettersOf(world), []);
  });

  it("changes nothing in a dry run", async () => {
    const world = await withLetters(3);

    assert.deepEqual(await world.bus.deadLetters(topic, { group }).redrive({ dryRun: true }), {
      matched: 3,
      redriven: 0,
    });
    assert.equal((await lettersOf(world)).length, 3);
    assert.deepEqual(world.handled, []);
  });

  it("keeps a letter whose message was not confirmed, and can be run again", async () => {
    const world = await withLetters(3);
    failing(world.adapter.faults, "publish", 1_000, fatalError);
    const dlq = world.bus.deadLetters(topic, { group });

    await messagingErrorOf("ERR_AUTH", () => dlq.redrive());
    assert.equal((await lettersOf(world)).length, 3);
    world.adapter.faults.before = undefined;
    await dlq.redrive();
    await until(world.runtime, () => world.handled.length === 3);

    assert.deepEqual(await lettersOf(world), []);
  });

  it("goes at the rate it is told", async () => {
    const world = await withLetters(5);

    const done = world.bus.deadLetters(topic, { group }).redrive({ rate: 2 });
    await world.runtime.advance(0);
    const at: number[] = [world.of("redriven").length];
    for (let i = 0; i < 5; i++) {
      await world.runtime.advance(500);
      at.push(world.of("redriven").length);
    }
    await done;

    assert.deepEqual(at, [1, 2, 3, 4, 5, 5]);
  });

  it("stops where it is when it is aborted, and what was done stays done", async () => {
    const world = await withLetters(5);
    const abort = new AbortController();
    const done = errorOf(() =>
      world.bus.deadLetters(topic, { group }).redrive({ rate: 1, signal: abort.signal }),
    );
    await world.runtime.advance(1_500);

    abort.abort("enough");

    assert.equal(await done, "enough");
    await world.runtime.advance(10_000);
    assert.equal(world.of("redriven").length, 2);
    assert.equal((await lettersOf(world)).length, 3);
    assert.equal(world.of("handled").length, 2);
  });

  it.each<[string, object]>([
    ["a misspelt option", { id: ["1"] }],
    ["ids that are no list", { ids: "1" }],
    ["a limit of 0", { limit: 0 }],
    ["a condition that is none", { where: true }],
    ["a rate of 0", { rate: 0 }],
    ["a rate that is no number", { rate: NaN }],
    ["a dryRun that is no boolean", { dryRun: "yes" }],
  ])("refuses %s", async (_what, options) => {
    const dlq = openBus().bus.deadLetters(topic, { group });
    await messagingErrorOf("ERR_CONFIG", () => dlq.redrive(options));
  });
});

describe("discard", () => {
  it("takes letters out for good, and asks which", async () => {
    const world = await withLetters(3);
    const dlq = world.bus.deadLetters(topic, { group });

    await messagingErrorOf("ERR_CONFIG", () => dlq.discard({}));
    await messagingErrorOf("ERR_CONFIG", () => dlq.discard(undefined as never));
    const where = ({ message }: DeadLetter<number>): boolean => message.payload !== 1;
    assert.deepEqual(await dlq.discard({ where, dryRun: true }), { matched: 2, discarded: 0 });
    assert.deepEqual(await dlq.discard({ where }), { matched: 2, discarded: 2 });

    assert.deepEqual(
      (await lettersOf(world)).map(({ message }) => message.payload),
      [1],
    );
  });
});

describe("a dead letter", () => {
  it("that somebody else wrote is shown as far as it goes", async () => {
    const world = await withLetters(0);
    await world.adapter.publish([
      {
        destination: { topic: { name: "t", partitions: 1, keyed: false }, group, dead: true },
        message: {
          attributes: {},
          headers: { [header.attempts]: "-7", [header.deadLetteredAt]: "yesterday" },
          key: undefined,
          body: Uint8Array.of(0xff),
        },
        durability: "accepted",
        requireRoute: false,
      },
    ]);

    const [letter] = await lettersOf(world);

    assert.deepEqual(
      [letter?.reason, letter?.attempts, letter?.deadLetteredAt, letter?.message.payload, letter?.error.name],
      ["unknown", 0, undefined, undefined, "Error"],
    );
    assert.deepEqual([...(letter?.body ?? [])], [0xff]);
  });

  it("has the payload its schema makes, or none when it does not match", async () => {
    const world = openBus();
    const strict = defineTopic("t", { schema: z.object({ n: z.string().transform(Number) }) });
    const loose = defineTopic("t");
    await world.bus.consume(strict, { group }, () => deadLetter("odd"));
    await world.bus.publishAll(loose, [{ n: "7" }, { n: 7 }]);
    await until(world.runtime, () => world.of("deadLettered").length === 2);

    const letters = await Array.fromAsync(world.bus.deadLetters(strict, { group }).list());

    assert.deepEqual(
      new Map(letters.map(({ reason, message }) => [reason, message.payload])),
      new Map<string, unknown>([
        ["odd", { n: 7 }],
        ["invalid", undefined],
      ]),
    );
  });

  it.each([undefined, {}, { group: "" }, { group: "g", topic: "t" }])(
    "needs a group: %j",
    async (options) => {
      await messagingErrorOf("ERR_CONFIG", () => openBus().bus.deadLetters(topic, options as never));
    },
  );
});
