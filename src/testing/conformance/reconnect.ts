/** N: after any loss of the broker, sending and consuming go on by themselves, and nothing is lost. */
import assert from "node:assert/strict";
import { eventually } from "../eventually.ts";
import { createLedger } from "../ledger.ts";
import { type Scenario, type World, scenario } from "./scenario.ts";

const unsupported: Scenario["unsupported"] = ({ server }) =>
  server ? undefined : "there is no server to lose";

/** Publishes `count` messages from ten publishers at once, and calls `disturb` after each third. */
async function publishUnderFaults(world: World, count: number, disturb: () => Promise<void>): Promise<void> {
  const bus = await world.bus({ publishTimeout: "60s" });
  const topic = world.topic<number>();
  const ledger = createLedger();
  const recorder = await world.consume(
    bus,
    topic,
    { group: "g", concurrency: 50, lease: "3s" },
    (_payload, { message }) => ledger.delivered(message.id),
  );
  // A quorum queue is safe from kill -9 only about a second after it was declared.
  await bus.publish(topic, -1, { id: "warm-up", delay: "2s" }).then(() => ledger.attempted("warm-up"));
  await recorder.waitFor(1);

  let next = 0;
  const publishOne = async (): Promise<void> => {
    for (let n = next++; n < count; n = next++) {
      const id = `message-${n}`;
      ledger.attempted(id);
      await bus.publish(topic, n, { id });
      ledger.acknowledged(id);
    }
  };
  const publishers = Promise.all(Array.from({ length: 10 }, publishOne));
  for (const share of [1 / 3, 2 / 3]) {
    await eventually(() => assert.ok(next >= count * share), 60_000);
    await disturb();
  }
  await publishers;
  await eventually(() => assert.deepEqual(ledger.missing(), []), 60_000);
  ledger.assertValid();
}

export const reconnect: readonly Scenario[] = [
  scenario(
    "N1",
    "after every connection was reset, sending and consuming go on by themselves, and nothing is lost",
    (world) => publishUnderFaults(world, 2_000, () => world.faults.cutConnections()),
    unsupported,
  ),
  scenario(
    "N2",
    "while the broker restarts twice, a thousand messages of ten publishers are all delivered",
    (world) => publishUnderFaults(world, 1_000, () => world.faults.restartBroker()),
    unsupported,
  ),
  scenario(
    "N3",
    "connections that went dead without a word are noticed and replaced, and nothing is lost",
    (world) => publishUnderFaults(world, 200, () => world.faults.stallConnections()),
    unsupported,
  ),
];
