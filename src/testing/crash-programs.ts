/** What runs until it is killed, in processes of their own; and what handles the same messages in the process of the scenario. */
import type { Bus } from "../bus.ts";
import type { ConsumeOptions } from "../consume.ts";
import { createBus } from "../create-bus.ts";
import { NonRetryableError } from "../errors.ts";
import { constant } from "../retry/backoff.ts";
import { defineTopic } from "../topic.ts";
import type { Backend, TestDatabase } from "./conformance/scenario.ts";
import { type Failpoint, type Reached, createFailpoint, watchAdapter, watchStore } from "./failpoints.ts";

export interface CrashOptions {
  readonly topic: string;
  readonly failpoint: Failpoint;
}

export interface ConsumeCrashOptions extends CrashOptions {
  /** Default: effects through the inbox. */
  readonly once?: false | undefined;
  /** How every attempt ends, after its effect was written. Default: well. */
  readonly fail?: "retry" | "dead" | undefined;
  readonly prefetch?: number | undefined;
}

/** How a crashed consumer and the one that comes after it consume. */
export function consumeOptions({
  once,
  prefetch,
}: Pick<ConsumeCrashOptions, "once" | "prefetch"> = {}): ConsumeOptions<string> {
  const retry = { maxAttempts: 100, backoff: constant(100) };
  return { group: "g", once: once ?? "transaction", prefetch, holdBelow: 0, lease: "2s", retry };
}

/** One effect, in the handler's transaction. */
export function addEffect(
  database: TestDatabase,
): (payload: string, context: { readonly tx: unknown }) => Promise<void> {
  return (payload, { tx }) => database.addEffect(tx, payload);
}

export async function consume(
  backend: Backend,
  { topic, failpoint, once, fail, prefetch }: ConsumeCrashOptions,
): Promise<void> {
  const reached = createFailpoint(failpoint);
  const bus = await openBus(backend, reached);
  const effect = addEffect(backend.database);
  await bus.consume(
    defineTopic<string>(topic),
    consumeOptions({ once, prefetch }),
    async (payload, context) => {
      if (once !== false) await effect(payload, context);
      reached("handle");
      if (fail === "retry") throw new Error("again");
      if (fail === "dead") throw new NonRetryableError("hopeless");
    },
  );
}

export async function relay(backend: Backend, { failpoint }: CrashOptions): Promise<void> {
  const bus = await openBus(backend, createFailpoint(failpoint));
  bus.relay({ batch: 10 });
}

/** One by one, so that it is killed among them. */
export async function redrive(backend: Backend, { topic, failpoint }: CrashOptions): Promise<void> {
  const bus = await openBus(backend, createFailpoint(failpoint));
  await bus.deadLetters(defineTopic(topic), { group: "g" }).redrive({ rate: 1_000 });
}

/** Tells of every message that has ended, for those who wait for it. */
async function openBus(backend: Backend, reached: Reached): Promise<Bus> {
  return createBus({
    adapter: watchAdapter(backend.adapter(), reached),
    store: watchStore(await backend.database.store(), reached),
    onEvent(event) {
      if (event.type === "handled") process.stdout.write(`handled ${event.messageId}\n`);
    },
  });
}
