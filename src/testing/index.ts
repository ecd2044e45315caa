/** For tests: the suites that define an adapter and a store, a fake clock, and small helpers. */
export { conformance, scenarios } from "./conformance/index.ts";
export type { ConformanceOptions, SkippableTest, TestRunner } from "./conformance/index.ts";
export type {
  Backend,
  Child,
  CreateBackend,
  ForeignMessage,
  ForeignProducer,
  Scenario,
  TestDatabase,
  TestFaults,
  TestTransaction,
  World,
} from "./conformance/scenario.ts";
export { eventually } from "./eventually.ts";
export { createFakeRuntime } from "./fake-runtime.ts";
export type { FakeRuntime, FakeRuntimeOptions } from "./fake-runtime.ts";
export { createLedger } from "./ledger.ts";
export type { Ledger, LedgerCounts } from "./ledger.ts";
export { storeConformance, storeScenarios } from "./store/index.ts";
export type { StoreConformanceOptions } from "./store/index.ts";
export type { StoreBackend, StoreDatabase, StoreScenario } from "./store/scenario.ts";
