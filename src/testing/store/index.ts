/**
 * The suite that defines a store: a store is what passes it, on a real database. Plain functions over the caller's test
 * runner; each scenario is one test with a database of its own, named by its sentence.
 */
import type { TestRunner } from "../conformance/index.ts";
import { append } from "./append.ts";
import { fetching } from "./fetching.ts";
import { inbox } from "./inbox.ts";
import { lease } from "./lease.ts";
import { migrations } from "./migrations.ts";
import { prepared } from "./prepared.ts";
import { relaying } from "./relaying.ts";
import { results } from "./results.ts";
import type { StoreBackend, StoreScenario } from "./scenario.ts";
import { transactions } from "./transactions.ts";
import { openStoreWorld } from "./world.ts";

export interface StoreConformanceOptions {
  readonly runner: TestRunner;
  /** Name of the store, for the report. */
  readonly name: string;
  readonly backend: () => Promise<StoreBackend>;
  /** Only scenarios whose id passes. Default: all. */
  readonly only?: ((id: string) => boolean) | undefined;
}

/** All scenarios by group. */
export const storeScenarios: Readonly<Record<string, readonly StoreScenario[]>> = {
  Append: append,
  Fetch: fetching,
  Lease: lease,
  Inbox: inbox,
  Result: results,
  Prepared: prepared,
  Transaction: transactions,
  Migration: migrations,
  Relay: relaying,
};

const timeoutMs = 120_000;

/**
 * Registers the suite with the runner.
 *
 * @example
 * storeConformance({ runner: { describe, it, beforeAll, afterAll }, name: "postgres", backend: openBackend });
 */
export function storeConformance({
  runner,
  name,
  backend: open,
  only = () => true,
}: StoreConformanceOptions): void {
  runner.describe(`${name} store conformance`, () => {
    let backend: StoreBackend;
    runner.beforeAll(async () => {
      backend = await open();
    }, timeoutMs);
    runner.afterAll(() => backend.close(), timeoutMs);

    for (const [group, list] of Object.entries(storeScenarios)) {
      const chosen = list.filter(({ id }) => only(id));
      if (chosen.length === 0) continue;
      runner.describe(group, () => {
        for (const one of chosen)
          runner.it(`${one.id} ${one.title}`, () => runScenario(one, backend), timeoutMs);
      });
    }
  });
}

async function runScenario(one: StoreScenario, backend: StoreBackend): Promise<void> {
  const world = await openStoreWorld(backend);
  try {
    const reason = one.unsupported?.(await world.database.store(), backend);
    if (reason !== undefined) return report(`${one.id} declared unsupported: ${reason}`);
    await one.run(world);
  } finally {
    await world.close();
  }
}

function report(line: string): void {
  process.stdout.write(`  ${line}\n`);
}
