import assert from "node:assert/strict";
import { type RelayOptions, TransportError, defineTopic } from "postrider";
import { type MemoryAdapter, memory } from "postrider/memory";
import { describe, it } from "vitest";
import type { PublishResult } from "../../../src/adapter.ts";
import { type TestBus, openBus } from "../support/bus.ts";
import { messagingErrorOf } from "../support/errors.ts";
import { openStore } from "../support/store.ts";

const key = (text: string): string => text.slice(0, 1);
const letters = defineTopic<string>("letters", { key, partitions: 1 });
const parcels = defineTopic<string>("parcels", { key, partitions: 1 });

interface Post extends MemoryAdapter {
  /** What arrived, in order. */
  readonly arrived: string[];
  /** Most messages that were with the broker at once. */
  most: number;
  /** Refused while in here. */
  readonly refused: Map<string, "ERR_DESTINATION" | "ERR_BROKER">;
}

function post(): Post {
  const broker = memory();
  const adapter: Post = {
    ...broker,
    arrived: [],
    most: 0,
    refused: new Map(),
    publish: (batch) => {
      adapter.most = Math.max(adapter.most, batch.length);
      return Promise.all(
        batch.map(async (message): Promise<PublishResult> => {
          const text = JSON.parse(Buffer.from(message.message.body ?? []).toString()) as string;
          const code = adapter.refused.get(text);
          if (code !== undefined)
            return { status: "rejected", error: new TransportError(code, "refused", { retryable: false }) };
          const [result] = await broker.publish([message]);
          adapter.arrived.push(text);
          return result as PublishResult;
        }),
      );
    },
  };
  return adapter;
}

async function relaying(options: RelayOptions, prepare: (adapter: Post) => void): Promise<[TestBus, Post]> {
  const database = await openStore();
  const adapter = post();
  prepare(adapter);
  const world = openBus({ adapter, store: database.store });
  for (const [topic, text] of [
    [letters, "a1"],
    [letters, "b1"],
    [parcels, "a2"],
    [letters, "a3"],
    [letters, "b2"],
  ] as const) {
    await world.bus.transaction((_tx, outbox) => outbox.publish(topic, text));
  }
  world.bus.relay(options);
  return [world, adapter];
}

async function arrival({ runtime }: TestBus, { arrived }: Post, count: number): Promise<readonly string[]> {
  for (let i = 0; arrived.length < count; i++) {
    assert.ok(i < 2_000, `only ${arrived.join()} arrived`);
    await runtime.advance(50);
  }
  return arrived;
}

const of = (all: readonly string[], key: string): readonly string[] =>
  all.filter((text) => text.startsWith(key));

describe("a relay's order", () => {
  it("by key: what fails holds back its key within its topic, and nothing else", async () => {
    const [world, adapter] = await relaying({}, ({ refused }) => refused.set("a1", "ERR_BROKER"));
    assert.deepEqual((await arrival(world, adapter, 3)).toSorted(), ["a2", "b1", "b2"]);

    adapter.refused.clear();
    const all = await arrival(world, adapter, 5);

    assert.deepEqual(of(all, "b"), ["b1", "b2"]);
    assert.deepEqual(all.slice(3), ["a1", "a3"]);
  });

  it("none: what fails holds nothing back, not even its key", async () => {
    const [world, adapter] = await relaying({ order: "none" }, ({ refused }) =>
      refused.set("a1", "ERR_BROKER"),
    );
    assert.deepEqual((await arrival(world, adapter, 4)).toSorted(), ["a2", "a3", "b1", "b2"]);

    adapter.refused.clear();

    assert.equal((await arrival(world, adapter, 5)).at(-1), "a1");
  });

  it("global: all leave one by one in the order they were committed", async () => {
    const [world, adapter] = await relaying({ order: "global" }, () => undefined);

    assert.deepEqual(await arrival(world, adapter, 5), ["a1", "b1", "a2", "a3", "b2"]);
    assert.equal(adapter.most, 1);
  });

  it.each(["ERR_BROKER", "ERR_DESTINATION"] as const)(
    "global: what fails with %s holds back all that follow",
    async (code) => {
      const [world, adapter] = await relaying({ order: "global" }, ({ refused }) => refused.set("b1", code));
      await arrival(world, adapter, 1);
      for (let i = 0; i < 100; i++) await world.runtime.advance(100);
      assert.deepEqual(adapter.arrived, ["a1"]);

      adapter.refused.clear();

      assert.deepEqual(await arrival(world, adapter, 5), ["a1", "b1", "a2", "a3", "b2"]);
    },
  );

  it("that there is none of is refused at the start", async () => {
    const database = await openStore();
    const { bus } = openBus({ store: database.store });

    const error = await messagingErrorOf("ERR_CONFIG", () => bus.relay({ order: "fifo" } as never));

    assert.match(error.message, /relay order must be "none" \| "key" \| "global"/u);
  });
});

describe("a relay's health", () => {
  it("says what waits once it has renewed its lease, and an event says it too", async () => {
    const database = await openStore();
    const adapter = post();
    adapter.refused.set("a1", "ERR_DESTINATION");
    const world = openBus({ adapter, store: database.store });
    await world.bus.transaction((_tx, outbox) => outbox.publishAll(letters, ["a1", "a2"]));
    const relay = world.bus.relay();
    assert.equal(relay.health().backlog, undefined);

    for (let i = 0; i < 500 && relay.health().backlog === undefined; i++) await world.runtime.advance(50);

    assert.equal(relay.health().backlog?.depth, 2);
    assert.ok((relay.health().backlog?.oldestMs ?? 0) >= 1_000);
    assert.equal(world.of("backlog").at(-1)?.depth, 2);
  });
});
