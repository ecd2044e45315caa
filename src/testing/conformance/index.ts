/**
 * The suite that defines an adapter: an adapter is what passes it. Plain functions over the caller's test runner; each
 * scenario is one test, named by its sentence. A scenario is skipped only by a declared capability, with the reason in
 * its name; declaring what is not there makes others fail.
 */
import type { Backend, CreateBackend, Scenario } from "./scenario.ts";
import { backpressure } from "./backpressure.ts";
import { clocks } from "./clocks.ts";
import { crashes } from "./crashes.ts";
import { deadLetters } from "./dead-letters.ts";
import { delay } from "./delay.ts";
import { delivery } from "./delivery.ts";
import { foreign } from "./foreign.ts";
import { groups } from "./groups.ts";
import { idempotency } from "./idempotency.ts";
import { limits } from "./limits.ts";
import { observing } from "./observing.ts";
import { ordering } from "./ordering.ts";
import { outbox } from "./outbox.ts";
import { reconnect } from "./reconnect.ts";
import { redrive } from "./redrive.ts";
import { relay } from "./relay.ts";
import { retries } from "./retry.ts";
import { settling } from "./settling.ts";
import { shutdown } from "./shutdown.ts";
import { openWorld } from "./world.ts";

/** What the suite needs of a test runner; vitest, jest and mocha have it. */
export interface TestRunner {
  describe(name: string, body: () => void): void;
  /** A runner that hands its tests a way to skip themselves shows what an adapter declares it cannot do as skipped. */
  it(name: string, body: (test?: SkippableTest) => Promise<void>, timeoutMs?: number): void;
  beforeAll(body: () => Promise<void>, timeoutMs?: number): void;
  afterAll(body: () => Promise<void>, timeoutMs?: number): void;
}

/** Vitest's test context has it; it throws. */
export interface SkippableTest {
  readonly skip?: ((note: string) => void) | undefined;
}

export interface ConformanceOptions {
  readonly runner: TestRunner;
  /** Name of the adapter, for the report. */
  readonly name: string;
  /**
   * URL of a module that exports `createBackend` (`CreateBackend`): imported here, and by the child processes that scenarios
   * start.
   */
  readonly backend: string;
  /** Only scenarios whose id passes. Default: all. */
  readonly only?: ((id: string) => boolean) | undefined;
}

/** All scenarios by group. */
export const scenarios: Readonly<Record<string, readonly Scenario[]>> = {
  Delivery: delivery,
  Groups: groups,
  Ordering: ordering,
  Settling: settling,
  Retry: retries,
  Delay: delay,
  Clocks: clocks,
  "Dead letters": deadLetters,
  Redrive: redrive,
  Idempotency: idempotency,
  Outbox: outbox,
  Relay: relay,
  Crashes: crashes,
  Backpressure: backpressure,
  Shutdown: shutdown,
  Reconnect: reconnect,
  Limits: limits,
  "Foreign messages": foreign,
  Observing: observing,
};

const timeoutMs = 120_000;

/**
 * Registers the suite with the runner.
 *
 * @example
 * conformance({ runner: { describe, it, beforeAll, afterAll }, name: "rabbitmq", backend: import.meta.resolve("./backend.ts") });
 */
export function conformance({ runner, name, backend: module, only = () => true }: ConformanceOptions): void {
  runner.describe(`${name} conformance`, () => {
    let backend: Backend;
    runner.beforeAll(async () => {
      const { createBackend } = (await import(module)) as { createBackend: CreateBackend };
      backend = await createBackend();
    }, timeoutMs);
    runner.afterAll(() => backend.close(), timeoutMs);

    for (const [group, list] of Object.entries(scenarios)) {
      const chosen = list.filter(({ id }) => only(id));
      if (chosen.length === 0) continue;
      runner.describe(group, () => {
        for (const one of chosen)
          runner.it(
            `${one.id} ${one.title}`,
            (test) => runScenario(one, backend, module, test?.skip),
            timeoutMs,
          );
      });
    }
  });
}

async function runScenario(
  one: Scenario,
  backend: Backend,
  module: string,
  skip: SkippableTest["skip"] = report,
): Promise<void> {
  const reason = one.unsupported?.(backend.adapter().capabilities, await backend.database.store());
  if (reason !== undefined) return skip(`declared unsupported: ${reason}`);
  await backend.database.reset();
  const world = openWorld(one.id, backend, module);
  try {
    await one.run(world);
  } finally {
    await world.close();
  }
}

function report(line: string): void {
  process.stdout.write(`  ${line}\n`);
}
