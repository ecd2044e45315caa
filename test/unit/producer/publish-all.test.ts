import assert from "node:assert/strict";
import { PublishError, defineTopic } from "postrider";
import { describe, it } from "vitest";
import { type TestBus, openBus, settle, until } from "../support/bus.ts";
import { messagingErrorOf } from "../support/errors.ts";
import { brokerError, holding } from "../support/faults.ts";
import { clean, stored, topic } from "../support/publishing.ts";

describe("publishAll", () => {
  it("gives one result per payload, in order, each with its own id", async () => {
    const { bus } = openBus();

    const results = await bus.publishAll(topic, [1, 2, 3]);

    assert.deepEqual(
      results.map(({ status, index }) => [status, index]),
      [
        ["accepted", 0],
        ["accepted", 1],
        ["accepted", 2],
      ],
    );
    assert.equal(new Set(results.map(({ id }) => id)).size, 3);
  });

  it("gives nothing for nothing", async () => {
    assert.deepEqual(await openBus().bus.publishAll(topic, []), []);
  });

  it("rejects only the payloads that cannot be sent", async () => {
    const world = openBus();

    const results = await world.bus.publishAll(topic, [1, NaN, 3]);

    assert.deepEqual(
      results.map(({ status }) => status),
      ["accepted", "rejected", "accepted"],
    );
    const [, bad] = results;
    assert.ok(bad?.status === "rejected" && bad.error.code === "ERR_ENCODE" && bad.id === undefined);
    assert.deepEqual(await stored(world), [1, 3]);
  });

  it("says unknown, with the id, of what the broker may have when the caller gives up", async () => {
    const world = openBus();
    const held = holding(world.adapter.faults, "publish", "after");
    const abort = new AbortController();
    const pending = world.bus.publishAll(topic, [1, 2], { signal: abort.signal });
    await settle(world.runtime);

    abort.abort(new Error("enough"));
    const results = await pending;
    held.letGo();

    for (const result of results) {
      assert.equal(result.status, "unknown", "the broker has it");
      assert.ok(result.id !== undefined && result.error instanceof PublishError);
      assert.match(result.error.message, /given up: enough/u);
    }
  });

  it("says rejected of what was given up before it was handed over", async () => {
    const { bus } = openBus();

    const [result] = await bus.publishAll(topic, [1], { signal: AbortSignal.abort() });

    assert.equal(result?.status, "rejected");
  });

  it.each(["id", "key", "idempotencyKey"])(
    "refuses the option %s, which would make one message of many",
    async (option) => {
      const { bus } = openBus();

      await messagingErrorOf("ERR_CONFIG", () => bus.publishAll(topic, [1, 2], { [option]: "same" }));
    },
  );

  it("rejects as a whole when its options are wrong", async () => {
    const { bus } = openBus();

    await messagingErrorOf("ERR_CONFIG", () => bus.publishAll(topic, [1], { timout: "1s" } as never));
    await messagingErrorOf("ERR_CONFIG", () => bus.publishAll(topic, 1 as never));
  });

  it("keeps the order of asynchronous validations that end in any order", async () => {
    const slow = defineTopic("t", {
      schema: {
        "~standard": {
          version: 1 as const,
          vendor: "test",
          validate: async (value: unknown) => {
            for (let i = 0; i < 20 - (value as number) * 5; i++) await Promise.resolve();
            return { value: value as number };
          },
        },
      },
      key: () => "k",
      partitions: 1,
    });
    const world = openBus();

    await world.bus.publishAll(slow, [0, 1, 2, 3]);

    const payloads: unknown[] = [];
    await world.bus.consume(slow, { group: "g", order: "key" }, (payload) => void payloads.push(payload));
    await settle(world.runtime);
    assert.deepEqual(payloads, [0, 1, 2, 3]);
  });
});

describe("the order of a key", () => {
  const keyed = defineTopic<{ k: string; n: number }>("t", { key: ({ k }) => k, partitions: 1 });

  it("is kept when some have to be sent again", async () => {
    const world = openBus();
    let calls = 0;
    world.adapter.faults.before = (operation) => {
      if (operation !== "publish") return undefined;
      calls += 1;
      return calls % 3 === 0 ? undefined : brokerError();
    };
    const payloads = Array.from({ length: 30 }, (_, i) => ({ k: `k${i % 3}`, n: i }));

    const sent = world.bus.publishAll(keyed, payloads.slice(0, 15));
    await world.runtime.advance(100);
    const more = payloads.slice(15).map((payload) => world.bus.publish(keyed, payload));
    await world.runtime.advance(25_000);
    assert.ok((await sent).every(({ status }) => status === "accepted"));
    await Promise.all(more);

    clean(world);
    const got = (await storedKeyed(world, 30)) as { k: string; n: number }[];
    for (const k of ["k0", "k1", "k2"]) {
      const mine = got.filter((one) => one.k === k).map(({ n }) => n);
      assert.deepEqual(
        mine,
        mine.toSorted((a, b) => a - b),
        `${k} out of order`,
      );
      assert.equal(mine.length, 10);
    }
  });

  async function storedKeyed({ bus, runtime }: TestBus, count: number): Promise<unknown[]> {
    const payloads: unknown[] = [];
    const options = { group: "check", order: "key", prefetch: 1_000 } as const;
    await bus.consume(keyed, options, (payload) => void payloads.push(payload));
    await until(runtime, () => payloads.length >= count);
    return payloads;
  }
});
