/**
 * What `bus.outbox(handle)` takes: open transactions of the user's own, recognised by their shape. One entry per kind of
 * handle; whatever it is, our statements go through it and nothing else.
 */
import type { ClientBase } from "pg";
import { StoreError } from "../../src/spi.ts";
import { type Row, type Statement, queryOf } from "./connection.ts";
import { connectionOf } from "./guard.ts";
import { type OrmTransaction, handleOfOrm } from "./orm.ts";
import { type PgliteTransaction, pgliteHandle } from "./pglite.ts";

/** `"unknown"`: this kind of handle, or this version of it, cannot say. */
type TransactionState = "open" | "failed" | "none" | "unknown";

export interface TransactionHandle {
  /** The same object for the same connection, to check things once for each. */
  readonly connection: object;
  /** `connection` stands for one transaction and is of no use after it. */
  readonly single: boolean;
  /** Process id of the server as the connection was told it; not the true one behind a pooler, or where it is not known. */
  readonly processId: number | undefined;
  /** What it is, and what to do so that a transaction is open on it: `this client: await its BEGIN first`. */
  readonly remedy: string;
  state(): TransactionState;
  /** See `OutboxStore.onceEnded`. Absent: it cannot be told. */
  onceEnded?(ended: () => void): void;
  /** Runs one statement. `after` is the state right after it. */
  run(statement: Statement): Promise<{ readonly rows: readonly Row[]; readonly after: TransactionState }>;
}

/** What `bus.outbox` takes: a client of `pg` or a transaction of PGlite, or a transaction of one of the ORMs. */
export type PostgresHandle = ClientBase | PgliteTransaction | OrmTransaction;

const kinds: readonly ((handle: object) => TransactionHandle | undefined)[] = [
  handleOfOrm,
  pgClient,
  pgliteHandle,
];

/** Throws `ERR_TX` when it is nothing we know. */
export function handleOf(handle: unknown): TransactionHandle {
  if (typeof handle === "object" && handle !== null) {
    for (const kind of kinds) {
      const known = kind(handle);
      if (known !== undefined) return known;
    }
    if ("totalCount" in handle && "connect" in handle) {
      throw new StoreError(
        "ERR_TX",
        "a Pool is not a transaction: take a client with pool.connect(), await its BEGIN, and pass the client",
      );
    }
    if ("execProtocolRaw" in handle) {
      throw new StoreError(
        "ERR_TX",
        "a PGlite is not a transaction: pass the tx of its transaction(async (tx) => …)",
      );
    }
  }
  throw new StoreError(
    "ERR_TX",
    `the outbox takes a pg Client or PoolClient inside of a transaction, a transaction of PGlite, or one of an ORM as fromKysely(trx), fromDrizzle(tx), fromKnex(trx), fromPrisma(tx) or fromTypeorm(manager); it was given ${kindOf(handle)}`,
  );
}

/** For what an ORM calls its transaction. */
export function wrongKind(what: string, source: string, given: unknown): StoreError {
  return new StoreError("ERR_TX", `${what}, as ${source} gives it; it was given ${kindOf(given)}`);
}

/** A value by its class, never by what is in it. */
function kindOf(value: unknown): string {
  if (value === undefined || value === null) return String(value);
  if (typeof value !== "object") return `a ${typeof value}`;
  const { constructor } = value as { readonly constructor?: unknown };
  const name = typeof constructor === "function" ? constructor.name : "";
  return name === "" || name === "Object" ? "an object" : `an object of class ${name}`;
}

const states: Readonly<Record<string, TransactionState>> = { T: "open", E: "failed", I: "none" };

/** Client and PoolClient of `pg`. */
function pgClient(handle: object): TransactionHandle | undefined {
  const client = handle as Partial<ClientBase> & { readonly processID?: unknown };
  if (typeof client.query !== "function" || !("processID" in handle)) return undefined;
  const state = (): TransactionState => {
    // Since pg 8.21.
    if (client.getTransactionStatus === undefined) return "unknown";
    return states[client.getTransactionStatus() ?? ""] ?? "none";
  };
  return {
    connection: connectionOf(handle),
    single: false,
    processId: typeof client.processID === "number" ? client.processID : undefined,
    remedy: "this client: await its BEGIN first",
    state,
    onceEnded(ended) {
      if (state() === "open") watchEnd(connectionOf(handle) as ClientBase, ended);
      else ended();
    },
    run: (statement) =>
      new Promise((resolve, reject) => {
        // With a callback, because by the time a promise is awaited a pipelined connection may be further.
        (client as ClientBase).query(queryOf(statement), (error: Error | null, result) => {
          if (error) reject(error);
          else resolve({ rows: result.rows as Row[], after: state() });
        });
      }),
  };
}

const watched = new WeakMap<ClientBase, Set<() => void>>();

/** A client says when it has nothing more to do, after each statement that is awaited: then the status is asked. */
function watchEnd(client: ClientBase, ended: () => void): void {
  const before = watched.get(client);
  if (before !== undefined) return void before.add(ended);
  const waiting = new Set([ended]);
  watched.set(client, waiting);
  const look = (): void => {
    const status = client.getTransactionStatus() ?? "I";
    if (status !== "I") return;
    client.off("drain", look);
    watched.delete(client);
    for (const each of waiting) each();
  };
  client.on("drain", look);
}
