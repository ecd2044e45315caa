/**
 * The store port: outbox, inbox and idempotency in the user's own database. A store runs statements; it decides
 * nothing. Every method rejects with `StoreError`; one that may or may not have taken effect (a commit whose answer
 * never came) rejects too and is never treated as a failure of the handler: the inbox answers when it is tried again.
 */
import type { Destination } from "./adapter.ts";
import type { Durability } from "./capabilities.ts";
import type { Runtime } from "./clock.ts";
import type { BusEvent } from "./events.ts";
import type { WireMessage } from "./message.ts";

export interface StoreContext {
  readonly runtime: Runtime;
  emit(event: BusEvent): void;
}

/** A message waiting to leave. */
export interface OutboxEntry {
  readonly destination: Destination;
  readonly message: WireMessage;
  readonly durability: Durability;
}

/** An entry as the relay reads it. `seq` is the delivery order. */
export interface OutboxRow extends OutboxEntry {
  readonly seq: bigint;
}

/** What one fetch saw. */
export interface OutboxPage {
  readonly rows: readonly OutboxRow[];
  /**
   * How far this fetch's snapshot can be trusted: once a page's `horizon` is above the `mark` of an earlier `remove`, every
   * row drawn before that remove that will ever exist has been seen. (PostgreSQL: `pg_snapshot_xmin`.)
   */
  readonly horizon: bigint;
}

export interface FetchSpec {
  /** Rows above this only: an optimisation that never hides a row. */
  readonly above: bigint;
  /** Rows to leave out: they are on their way. Default: none. */
  readonly except?: readonly bigint[] | undefined;
  /** Topics set aside because their destination refuses. */
  readonly parkedTopics: readonly string[];
  readonly limit: number;
}

export interface Backlog {
  /** Rows waiting; beyond some thousands an estimate. */
  readonly depth: number;
  /** Age of the oldest, in milliseconds. */
  readonly oldestMs: number;
  /** Rows that can never be published, put aside. */
  readonly parked: number;
  /** Somebody holds the lease. */
  readonly relayed: boolean;
}

/** In which order rows leave; see `RelayOptions.order`. */
export type RelayOrder = "none" | "key" | "global";

/** The right to relay, held by one relay at a time; `epoch` fences the one before. */
export interface RelayLease {
  readonly epoch: bigint;
  /** `false`: the last holder did not let go by itself. */
  readonly clean: boolean;
  /** In which it is to send: the one that was named, by this holder or last. `"key"` when none ever was. */
  readonly order: RelayOrder;
}

export interface OutboxStore {
  /**
   * Adds entries in the caller's transaction. Rejects with `ERR_TX` when `handle` is not an open transaction of this
   * store's database, before anything is written.
   */
  append(handle: unknown, entries: readonly OutboxEntry[]): Promise<void>;
  /**
   * Calls `ended` once when the transaction that was appended to is over, at once when its connection does not tell. Where
   * connections do. Only a hint for the relay; the same `ended` is called once however often it is given.
   */
  onceEnded?(handle: unknown, ended: () => void): void;
  /**
   * The lease when it is free or has run out, by the database's clock; else `undefined`. An order that is named is kept with
   * the lease, until a later holder names another.
   */
  acquire(owner: string, ttlMs: number, order?: RelayOrder): Promise<RelayLease | undefined>;
  /** Resolves with the order that is kept with the lease; `undefined`: lost. */
  renew(owner: string, epoch: bigint, ttlMs: number): Promise<RelayOrder | undefined>;
  /** Lets go, so that another can take over at once. */
  surrender(owner: string, epoch: bigint): Promise<void>;
  /**
   * While another holds the lease: its order, if it named that; else `order`, which is kept with the lease from now on and
   * which the holder learns when it renews.
   */
  requestOrder(order: RelayOrder): Promise<RelayOrder>;
  /**
   * Committed rows in `seq` order. Opens no transaction, and locks nothing beyond the statement: whoever sends never waits
   * for a relay that is stopped in the middle of it.
   */
  fetch(spec: FetchSpec): Promise<OutboxPage>;
  /** Deletes published rows if `epoch` still holds. `mark` is newer than every transaction that may own a lower `seq`. */
  remove(
    seqs: readonly bigint[],
    epoch: bigint,
  ): Promise<{ readonly fenced: boolean; readonly mark: bigint }>;
  /** Moves a row that can never be published to where a person finds it, if `epoch` still holds. */
  park(row: OutboxRow, epoch: bigint, error: string): Promise<{ readonly fenced: boolean }>;
  /** At a cost that does not grow with what waits. */
  backlog(): Promise<Backlog>;
  /** Tells those who listen, in other processes, that there may be rows. In a transaction of its own. Where the database can. */
  announce?(): Promise<void>;
  /**
   * Calls `notice` soon after somebody announced. Resolves with `true` when `ended` has aborted, with `false` when it turns
   * out that notices do not arrive here; rejects when it hears no more. Nothing may depend on it.
   */
  listen?(notice: () => void, ended: AbortSignal): Promise<boolean>;
}

/** One delivery as the inbox knows it. */
export interface InboxKey {
  /** Topic and group. */
  readonly scope: string;
  /** The message's idempotency key, or its id. */
  readonly key: string;
  /** How often it was redriven: a redriven message may run again if it was dead-lettered, never if it was handled. */
  readonly redrives: number;
}

export type InboxOutcome = "handled" | "dead" | "discarded";

/**
 * `fresh`: yours to handle. `duplicate`: it has ended before. `busy`: somebody is handling it now.
 */
export type InboxAnswer = "fresh" | "duplicate" | "busy";

/** A lease on one delivery, for handlers whose effects are outside the database. */
export interface InboxClaim extends InboxKey {
  /** Fences the claim: a later holder has another. */
  readonly token: string;
}

export interface EndedClaim extends InboxClaim {
  readonly outcome: InboxOutcome;
  readonly result?: string | undefined;
}

export interface StoredResult {
  /** JSON; `undefined` when it ended without a result. */
  readonly result: string | undefined;
}

export interface InboxStore<Tx> {
  /** First statement of the handler's transaction: enters the message with its outcome, or says why not. Never waits. */
  record(tx: Tx, entry: InboxKey, outcome: InboxOutcome): Promise<InboxAnswer>;
  /** Claims each for `leaseMs`. One answer per claim, in order. */
  claim(claims: readonly InboxClaim[], leaseMs: number): Promise<readonly InboxAnswer[]>;
  /** Keeps claims for another `leaseMs`; `false` for one that was lost. */
  extend(claims: readonly InboxClaim[], leaseMs: number): Promise<readonly boolean[]>;
  /** Ends claims with their outcome, if they are still held, and with their result, if they have one. */
  complete(claims: readonly EndedClaim[]): Promise<void>;
  /** Gives claims up: the message may run again. */
  release(claims: readonly InboxClaim[]): Promise<void>;
  /** Adds the result to what `record` has entered in the same transaction. */
  keepResult(tx: Tx, entry: InboxKey, result: string): Promise<void>;
  /** The result of a message that has ended; `undefined`: it has not. */
  findResult(entry: InboxKey): Promise<StoredResult | undefined>;
  /** Deletes at most `limit` entries, with their results, older than `olderThanMs`; resolves with how many. */
  purge(olderThanMs: number, limit: number): Promise<number>;
}

/** A message that waits for its sender's decision. `id` and `entry` are the core's own texts; it has `id` once. */
export interface PreparedRow {
  /** Of topic and message: an id may be given in two topics. */
  readonly id: string;
  readonly topic: string;
  readonly entry: string;
}

export interface UndecidedRow extends PreparedRow {
  /** How often it was claimed. */
  readonly checks: number;
  readonly parked: boolean;
}

export interface PreparedStore<Tx> {
  /** Stores a message, due to be asked about in `dueMs`; one with the same id stays as it is. */
  add(row: PreparedRow, dueMs: number): Promise<void>;
  /** Takes a message out, in the transaction that decides; resolves with its entry, or `undefined` when there is none. */
  take(tx: Tx, id: string): Promise<string | undefined>;
  /** Those of these topics that are due, each counted as asked about once more and due again in `againMs`. Never waits. */
  claim(topics: readonly string[], againMs: number, limit: number): Promise<readonly UndecidedRow[]>;
  /** Is due no more, if it was not claimed again since; `false`: it was, or it is gone. */
  park(id: string, checks: number): Promise<boolean>;
  /** Parked or not, in the order they were stored. */
  list(topic: string, limit: number): Promise<readonly UndecidedRow[]>;
  /** Makes parked ones due at once, and not asked about yet: all of the topic's, or those with these ids. Resolves with how many. */
  resume(topic: string, ids: readonly string[] | undefined): Promise<number>;
}

export interface MigrationReport {
  readonly from: number;
  readonly to: number;
}

export interface TablesVersion {
  /** Of the tables there are; 0 when there are none. */
  readonly have: number;
  /** What this code makes. */
  readonly known: number;
}

/** `Tx` is what handlers get as `ctx.tx`; `Handle` what `bus.outbox(handle)` takes. */
export interface Store<Tx = unknown, Handle = unknown> {
  /** `"postgres"`, `"sqlite"`. */
  readonly name: string;
  /** Several transactions may be open at once; `false`: one waits for the other. */
  readonly concurrentTransactions: boolean;
  /** It makes and upgrades its tables by itself on `connect` (the embedded default). */
  readonly migratesItself: boolean;
  /** Connects and checks the tables. Rejects with `ERR_SCHEMA` naming what to run when they are missing or old. */
  connect(context: StoreContext): Promise<void>;
  /** Creates or upgrades the tables, in one transaction; safe to repeat and to run twice at once. */
  migrate(): Promise<MigrationReport>;
  /** Looks, before `connect` too, and changes nothing. Rejects with `ERR_SCHEMA` when the tables are too new for this code. */
  version(): Promise<TablesVersion>;
  /** What `migrate` does, as SQL for a tool of the user's: the first text makes version 1. Connects to nothing. */
  migrations(): readonly string[];
  /**
   * Runs `fn` in one transaction. Commits when it resolves, rolls back and rejects with its very error when it rejects.
   * A failure of the database itself, an unknown commit included, is a `StoreError`. When `signal` aborts before `fn` has
   * settled, the transaction is abandoned: rolled back in a way that nothing `fn` still does with `tx` can take effect.
   */
  transaction<T>(fn: (tx: Tx) => Promise<T>, signal?: AbortSignal): Promise<T>;
  readonly outbox: OutboxStore;
  readonly inbox: InboxStore<Tx>;
  readonly prepared: PreparedStore<Tx>;
  health(): { readonly connected: boolean; readonly error?: Error | undefined };
  close(): Promise<void>;
  /** Only for its type: the handles `bus.outbox` takes. */
  readonly handle?: Handle;
}

/** What must keep its order in the outbox: a key within its topic. `undefined` for messages without a key. */
export function orderKey(entry: OutboxEntry): string | undefined {
  const key = entry.message.key;
  return key === undefined ? undefined : `${entry.destination.topic.name}\u001f${key}`;
}
