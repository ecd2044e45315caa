/** A test runner for tests about tests: collects what is registered and runs it when asked, without reporting it. */
import type { TestRunner } from "postrider/testing";

export interface CollectingRunner extends TestRunner {
  /** Runs everything that was registered; resolves with the error of each test that failed, by its name. */
  run(): Promise<Map<string, unknown>>;
}

export function collectingRunner(): CollectingRunner {
  const before: (() => Promise<void>)[] = [];
  const after: (() => Promise<void>)[] = [];
  const tests: (readonly [string, () => Promise<void>])[] = [];
  return {
    describe: (_name, body) => body(),
    it: (name, body) => void tests.push([name, body]),
    beforeAll: (body) => void before.push(body),
    afterAll: (body) => void after.push(body),
    async run() {
      const failures = new Map<string, unknown>();
      for (const body of before) await body();
      for (const [name, body] of tests) await body().catch((error: unknown) => failures.set(name, error));
      for (const body of after) await body();
      return failures;
    },
  };
}
