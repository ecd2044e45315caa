/** L6, B10: a wall clock that is wrong, or jumps, makes nothing early and nothing late. */
import assert from "node:assert/strict";
import { type Runtime, nodeRuntime } from "../../clock.ts";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, type World, scenario } from "./scenario.ts";

const hour = 3_600_000;

interface JumpingRuntime extends Runtime {
  jump(ms: number): void;
}

/** The clock on the wall can be set; what counts milliseconds cannot. */
function jumpingRuntime(): JumpingRuntime {
  let offset = 0;
  return {
    ...nodeRuntime,
    now: () => nodeRuntime.now() + offset,
    jump: (ms) => void (offset += ms),
  };
}

/** Two messages wait, one for its delay and one for its retry, while the clock of their process jumps. */
async function waitThrough(world: World, jumpMs: number): Promise<void> {
  const runtime = jumpingRuntime();
  const bus = await world.bus({ runtime });
  const topic = world.topic<string>({ partitions: 1 });
  const since = new Map<string, number>();
  const waited = new Map<string, number>();
  const waitMs = 2_000;
  const retry = { maxAttempts: 2, backoff: constant(waitMs) };
  await world.consume(bus, topic, { group: "g", holdBelow: 0, retry }, (payload, { attempt }) => {
    if (payload === "retried" && attempt === 1) {
      since.set(payload, nodeRuntime.monotonic());
      throw new Error("later");
    }
    waited.set(payload, nodeRuntime.monotonic() - (since.get(payload) ?? 0));
  });

  since.set("delayed", nodeRuntime.monotonic());
  await bus.publish(topic, "delayed", { delay: waitMs });
  await bus.publish(topic, "retried");
  await eventually(() => assert.ok(since.has("retried")));
  // It waits behind them, for less: when it has come, they wait where the broker lets them wait.
  await bus.publish(topic, "fence", { delay: 500 });
  await eventually(() => assert.ok(waited.has("fence")));
  runtime.jump(jumpMs);
  await eventually(() => assert.equal(waited.size, 3));

  for (const payload of ["delayed", "retried"])
    assert.ok((waited.get(payload) ?? 0) >= waitMs - 5, `${payload} came after ${waited.get(payload)} ms`);
}

export const clocks: readonly Scenario[] = [
  scenario(
    "L6",
    "while the wall clock of the process jumps by an hour, what waits comes neither early nor never",
    async (world) => {
      await Promise.all([waitThrough(world, hour), waitThrough(world, -hour)]);
    },
    ({ server, persistent }) =>
      persistent && !server ? "the wall clock is the only one that its processes share" : undefined,
  ),

  scenario(
    "B10",
    "what processes with a wrong clock send through the outbox leaves, whichever of them relays",
    async (world) => {
      const fast = await world.bus({
        store: true,
        runtime: { ...nodeRuntime, now: () => nodeRuntime.now() + hour },
      });
      const slow = await world.bus({
        store: true,
        runtime: { ...nodeRuntime, now: () => nodeRuntime.now() - hour },
      });
      const topic = world.topic<string>();
      const reader = await world.bus();
      const recorder = await world.consume(reader, topic, { group: "g" });
      const send = async (bus: typeof fast, text: string): Promise<void> => {
        const transaction = await world.database.begin();
        await bus.outbox(transaction.handle).publish(topic, text);
        await transaction.commit();
      };

      const relay = fast.relay();
      await eventually(() => assert.ok(relay.health().active));
      slow.relay();
      await send(fast, "one");
      await send(slow, "two");
      await recorder.waitFor(2);
      await fast.close();
      await send(slow, "three");
      await recorder.waitFor(3);
    },
  ),
];
