/** For tests of publishing: what has reached the broker. */
import { defineTopic } from "postrider";
import { type TestBus, settle } from "./bus.ts";

export const topic = defineTopic<number>("t");

/** Payloads that reached the broker, in the order it stored them. */
export async function stored(world: TestBus): Promise<unknown[]> {
  const payloads: unknown[] = [];
  const consumer = await world.bus.consume(
    topic,
    { group: "check", prefetch: 1_000, concurrency: 1 },
    (payload) => {
      payloads.push(payload);
    },
  );
  await settle(world.runtime);
  await world.runtime.advance(10);
  await consumer.close();
  return payloads;
}

/** The same broker, healed. */
export function clean({ adapter }: TestBus): object {
  adapter.faults.before = undefined;
  adapter.faults.after = undefined;
  return {};
}
