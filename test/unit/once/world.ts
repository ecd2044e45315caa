import { type ConsumeOptions, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { createFakeRuntime } from "postrider/testing";
import { type TestBus, openBus, until } from "../support/bus.ts";
import type { TestStore } from "../support/store.ts";

export const topic = defineTopic<string>("t");
export const group = "g";
export const lease: ConsumeOptions<string, unknown, false> = { group, once: "lease", lease: "30s" };

let names = 0;
export const freshName = (): string => `once-${(names += 1)}`;

/** A bus on a broker by name and a database. */
export function busOn(database: TestStore, name = freshName(), runtime = createFakeRuntime()): TestBus {
  return openBus({ adapter: memory({ name }), store: database.store, runtime });
}

/** What the inbox knows. */
export function inbox(database: TestStore): unknown[] {
  return database.rows("SELECT key, outcome, token IS NOT NULL AS claimed FROM postrider_inbox ORDER BY key");
}

/** SQLite answers in its own time: turns of the event loop, but none of the clock. */
export function ended(world: TestBus, count: number): Promise<void> {
  return until(world.runtime, () => world.outcomes().length >= count);
}

/** To the group itself, as a redrive does: the memory broker looks for duplicates only in what comes to a topic. */
export async function publishPastTheBroker(
  { adapter }: TestBus,
  { id, idempotencyKey }: { readonly id: string; readonly idempotencyKey: string },
): Promise<void> {
  const spec = { name: "t", partitions: 1, keyed: false };
  await adapter.publish([
    {
      destination: { topic: spec, group },
      message: {
        attributes: { id, idempotencykey: idempotencyKey },
        headers: {},
        key: undefined,
        body: new TextEncoder().encode(JSON.stringify(id)),
      },
      durability: "accepted",
      requireRoute: true,
    },
  ]);
}
