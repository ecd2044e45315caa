/** For tests of consumers: handlers that end when told, and what a consumer has left for others. */
import { type ConsumeOptions, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { type TestBus, openBus } from "./bus.ts";

export const topic = defineTopic<number>("t");
export const keyed = defineTopic<number>("t", { key: (n) => `k${n % 3}`, partitions: 1 });
export const group = "g";
export const never = (): Promise<never> => new Promise(() => undefined);
export const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Consumes with handlers that run until they are told to end. */
export async function held(world: TestBus, options: Partial<ConsumeOptions<number, unknown, false>> = {}) {
  const running = new Map<number, () => void>();
  const started: number[] = [];
  const consumer = await world.bus.consume(topic, { group, ...options }, (n) => {
    started.push(n);
    return new Promise<void>((resolve) => running.set(n, resolve));
  });
  const end = (n: number): void => running.get(n)?.();
  return { consumer, started, end, endAll: () => running.forEach((finish) => finish()) };
}

/** What another consumer of the group finds. */
export async function leftOver(name: string): Promise<{ payloads: number[]; attempts: number[] }> {
  const world = openBus({ adapter: memory({ name }) });
  const found = { payloads: [] as number[], attempts: [] as number[] };
  await world.bus.consume(topic, { group, concurrency: 1 }, (n, { attempt }) => {
    found.payloads.push(n);
    found.attempts.push(attempt);
  });
  await world.runtime.advance(100);
  return found;
}
