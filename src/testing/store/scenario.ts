/** What a scenario of the store suite is, and what it is given. */
import type { Runtime } from "../../clock.ts";
import type { BusEvent } from "../../events.ts";
import type { OutboxEntry, OutboxStore, RelayLease, Store } from "../../store.ts";
import type { TestDatabase, TestFaults } from "../conformance/scenario.ts";

/** A database of a scenario's own. */
export interface StoreDatabase extends TestDatabase {
  /** Runs a statement that fails, in `tx`. Rejects, or throws. */
  fail(tx: unknown): Promise<void>;
  /** Runs SQL, any number of statements, as a person would. */
  execute(sql: string): Promise<void>;
  /** Makes the tables look as an earlier version left them. For stores that do not upgrade them by themselves. */
  readonly makeOld?: (() => Promise<void>) | undefined;
  /** The way from the stores to the server. Where there is one. */
  readonly faults?: Pick<TestFaults, "holdReplies" | "cutConnections"> | undefined;
}

/** What is tested: a store on a real database. */
export interface StoreBackend {
  /** A new database: with the store's tables, or bare. */
  open(options?: { readonly bare?: boolean }): Promise<StoreDatabase>;
  /** There is a server, with a clock and a network of its own. */
  readonly server: boolean;
  /** All share one session, so that whoever reads waits for the transaction that is open. */
  readonly oneSession?: boolean | undefined;
  close(): Promise<void>;
}

export interface StoreWorld {
  /** A store of its own on the database, connected. Everything opened is closed after the scenario. */
  store(runtime?: Runtime): Promise<Store>;
  readonly database: StoreDatabase;
  /** Another database, bare of tables. */
  bare(): Promise<StoreDatabase>;
  /** Appends in a transaction of the caller's own, which then commits. */
  commit(store: Store, ...entries: readonly OutboxEntry[]): Promise<void>;
  /** Takes the lease, however long the last holder's still runs. */
  lease(store: Store, owner?: string, ttlMs?: number): Promise<RelayLease>;
  /** Ids of all rows there are, in the order of delivery. */
  rows(outbox: OutboxStore): Promise<readonly string[]>;
  /** What the stores reported. */
  readonly events: readonly BusEvent[];
}

export interface StoreScenario {
  /** `"E1"`. */
  readonly id: string;
  /** One sentence of observable behaviour. */
  readonly title: string;
  /** Why it cannot run here; `undefined` when it can. */
  readonly unsupported?: ((store: Store, backend: StoreBackend) => string | undefined) | undefined;
  readonly run: (world: StoreWorld) => Promise<void>;
}

export function storeScenario(
  id: string,
  title: string,
  run: (world: StoreWorld) => Promise<void>,
  unsupported?: StoreScenario["unsupported"],
): StoreScenario {
  return { id, title, run, unsupported };
}

/** For scenarios with two transactions open at once. */
export function needsConcurrency(store: Store): string | undefined {
  return store.concurrentTransactions ? undefined : "the store has one writing transaction at a time";
}

/** For scenarios about what lies between a process and its server. */
export function needsServer(_store: Store, { server }: StoreBackend): string | undefined {
  return server ? undefined : "there is no server";
}

/** For scenarios that read while a transaction is open. */
export function needsSessions(_store: Store, { oneSession }: StoreBackend): string | undefined {
  return oneSession === true ? "all share one session" : undefined;
}
