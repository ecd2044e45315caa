import assert from "node:assert/strict";
import { type Bus, type BusEvent, type BusOptions, createBus } from "postrider";
import { type MemoryAdapter, memory } from "postrider/memory";
import { type FakeRuntime, createFakeRuntime } from "postrider/testing";
import { onTestFinished } from "vitest";
import type { OutgoingMessage, PublishResult } from "../../../src/adapter.ts";
import { createNames } from "../../../src/names.ts";
import { type WireParts, wire } from "./wire.ts";

/** A bus on a memory broker and a clock of its own, with everything it says. */
export interface TestBus {
  readonly bus: Bus;
  readonly adapter: MemoryAdapter;
  readonly runtime: FakeRuntime;
  readonly events: readonly BusEvent[];
  /** Events of one type, in order. */
  of<T extends BusEvent["type"]>(type: T): Extract<BusEvent, { type: T }>[];
  /** Names of the events that say what became of deliveries. */
  outcomes(): string[];
}

const outcomeTypes = new Set<BusEvent["type"]>([
  "handled",
  "retry",
  "deadLettered",
  "discarded",
  "duplicate",
  "staleSettle",
]);

export function openBus(
  options: Omit<BusOptions, "runtime"> & {
    readonly adapter?: MemoryAdapter;
    readonly runtime?: FakeRuntime;
  } = {},
): TestBus {
  const runtime = options.runtime ?? createFakeRuntime();
  const adapter = options.adapter ?? memory();
  const events: BusEvent[] = [];
  const bus = createBus({
    ...options,
    adapter,
    runtime,
    onEvent(event) {
      events.push(event);
      options.onEvent?.(event);
    },
  });
  onTestFinished(async () => {
    adapter.faults.before = undefined;
    adapter.faults.after = undefined;
    // A test that makes closing fail has looked at that itself.
    await closeBus({ bus, runtime }, 0).catch(() => undefined);
  });
  const of = ((type: string) => events.filter((event) => event.type === type)) as TestBus["of"];
  const outcomes = (): string[] => events.map(({ type }) => type).filter((type) => outcomeTypes.has(type));
  return { bus, adapter, runtime, events, of, outcomes };
}

/** Closes a bus whose clock somebody must advance. */
async function closeBus({ bus, runtime }: Pick<TestBus, "bus" | "runtime">, timeout: number): Promise<void> {
  const closed = bus.close({ timeout });
  let done = false;
  const end = (): void => void (done = true);
  closed.then(end, end);
  for (let i = 0; !done && i < 100; i++) await runtime.advance(100);
  await closed;
}

/** Puts messages on a memory broker that no bus of ours has sent. */
export async function publishForeign(
  name: string,
  topic: string,
  ...messages: WireParts[]
): Promise<readonly PublishResult[]> {
  const adapter = memory({ name });
  const runtime = createFakeRuntime();
  await adapter.connect({ runtime, names: createNames(""), prefix: "", emit: () => undefined });
  const spec = { name: topic, partitions: 1, keyed: false };
  await adapter.declare({ topics: [spec], groups: [] });
  const results = await adapter.publish(
    messages.map((message): OutgoingMessage => ({
      destination: { topic: spec },
      message: wire(message),
      durability: "accepted",
      requireRoute: false,
    })),
  );
  await adapter.close();
  return results;
}

/** Lets promises and deferred calls settle, without time passing. */
export const settle = (runtime: FakeRuntime): Promise<void> => runtime.advance(0);

/** Lets things settle until `done` says so; fails when it never does. No time passes. */
export async function until(runtime: FakeRuntime, done: () => boolean): Promise<void> {
  for (let i = 0; !done(); i++) {
    assert.ok(i < 1_000, "it never came to that");
    await runtime.advance(0);
  }
}
