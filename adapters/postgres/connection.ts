/**
 * The way to the database: the pools, whether it can be reached, and the two forms in which the store itself uses it:
 * single statements, and short transactions of its own.
 */
import type { Client, Pool, PoolClient, QueryArrayConfig, QueryArrayResult } from "pg";
import {
  type DatabaseHealth,
  LifecycleError,
  type Runtime,
  type StoreContext,
  StoreError,
  createDatabaseHealth,
  loadPeer,
} from "../../src/spi.ts";
import { isConnectionFailure, toStoreError } from "./errors.ts";
import type { Settings } from "./options.ts";
import { PgliteStream } from "./pglite-stream.ts";

export interface Statement {
  readonly text: string;
  readonly values?: readonly unknown[] | undefined;
  /** Prepared once per connection under this name. Only for plans that cannot go bad. */
  readonly name?: string | undefined;
}

/** Cells as the server sent them: all that our statements return is text. */
export type Row = readonly (string | null)[];

interface Pools {
  /** Transactions of handlers. */
  readonly work: Pool;
  /** Statements of relay and inbox. The same as `work` when it is the user's. */
  readonly control: Pool;
  readonly ours: boolean;
}

const workConnections = 20;
const controlConnections = 4;
const connectTimeoutMs = 30_000;
/** Nothing we send takes long; only a peer that is gone without a word does. */
const answerTimeoutMs = 30_000;

/** pg lets programs change how types are read, for all connections: nothing of ours depends on it. */
const asSent = { getTypeParser: () => (value: string | Buffer) => value.toString() };

/** A statement in the form `pg` takes. `query_timeout` is a setting that its types do not know. */
export function queryOf({ text, values = [], name }: Statement): QueryArrayConfig {
  const config = { text, values: values as unknown[], rowMode: "array", types: asSent };
  return { ...config, query_timeout: answerTimeoutMs, ...(name === undefined ? {} : { name }) } as never;
}

export class PostgresDatabase {
  readonly #settings: Settings;
  readonly #closing = new AbortController();
  /** Ends what is still open when the store closes. */
  readonly #open = new Set<() => void>();
  #pools: Promise<Pools> | undefined;
  #closed: Promise<void> | undefined;
  #runtime: Runtime | undefined;
  readonly #health: DatabaseHealth = createDatabaseHealth(
    () => this.query("reaching the database", { text: "SELECT 1::text" }),
    () => this.#runtime,
    this.#closing.signal,
  );
  /** Sessions begin transactions as READ COMMITTED, so single statements need none of their own. */
  #readCommitted = true;
  #name = "the database";
  #locks = Infinity;

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** For messages: `database "app"`. */
  get name(): string {
    return this.#name;
  }

  /** One session that all share, in this process. */
  get isPglite(): boolean {
    return this.#settings.pglite !== undefined;
  }

  /** How many locks all sessions of the server may hold at once. */
  get locks(): number {
    return this.#locks;
  }

  /** Checks that there is a server that will do. Rejects with `StoreError`. */
  async connect(context: StoreContext): Promise<void> {
    this.#runtime = context.runtime;
    const [row] = await this.query("connecting to PostgreSQL", {
      text: `SELECT current_setting('server_version_num'), current_setting('server_encoding'), pg_is_in_recovery()::text,
        current_setting('default_transaction_isolation'), current_setting('fsync'), current_database(),
        (current_setting('max_locks_per_transaction')::bigint * (current_setting('max_connections')::bigint
          + current_setting('max_prepared_transactions')::bigint))::text`,
    });
    const [version, encoding, standby, isolation, fsync, database, locks] = row ?? [];
    this.#name = `database "${database}"`;
    const refuse = (why: string, retryable = false): never => {
      throw new StoreError("ERR_STORE", `${this.#name} cannot be used: ${why}`, { retryable });
    };
    if (Number(version) < 130_000) refuse(`PostgreSQL is ${version}. Version 13 or newer is needed`);
    if (encoding !== "UTF8") refuse(`its encoding is ${encoding}. It must be UTF8`);
    if (standby === "true") refuse("it is a read-only standby. Connect to the primary", true);
    this.#readCommitted = isolation === "read committed";
    this.#locks = Number(locks);
    if (fsync === "off") {
      const what = this.isPglite
        ? "a PGlite is for tests, it never flushes to disk"
        : `${this.#name} runs with fsync=off`;
      const message = `${what}: a crash of its host loses what was committed, messages too`;
      context.emit({ type: "warning", code: "POSTGRES_FSYNC", message });
    }
  }

  /** Runs one statement in a transaction of its own, READ COMMITTED. Rejects with `StoreError`. */
  async query(what: string, statement: Statement): Promise<readonly Row[]> {
    if (!this.#readCommitted)
      return this.transaction(what, async (client) => (await client.query(queryOf(statement))).rows);
    this.#checkOpen();
    try {
      const { control } = await this.#poolsOnce();
      const query: Promise<QueryArrayResult<(string | null)[]>> = control.query(queryOf(statement));
      const result = await this.#untilClosed(query);
      this.#health.up();
      return result.rows;
    } catch (error) {
      throw this.failed(what, error);
    }
  }

  /** Runs `act` in a short transaction, READ COMMITTED. Rejects with `StoreError`. */
  async transaction<T>(what: string, act: (client: PoolClient) => Promise<T>): Promise<T> {
    this.#checkOpen();
    let client: PoolClient | undefined;
    const onError = (error: Error): void => this.#health.down(toStoreError(what, error));
    try {
      client = await this.#connect(({ control }) => control);
      client.on("error", onError);
      await client.query(queryOf({ text: "BEGIN ISOLATION LEVEL READ COMMITTED" }));
      const result = await act(client);
      await client.query(queryOf({ text: "COMMIT" }));
      client.off("error", onError);
      client.release();
      this.#health.up();
      return result;
    } catch (error) {
      client?.release(true);
      throw this.failed(what, error);
    }
  }

  /**
   * A connection for a transaction, for as long as the caller needs it. Rejects with the signal's reason when that aborts
   * first. `end` is called, with what to reject with, when the store closes before `release`.
   */
  async checkout(signal: AbortSignal | undefined, end: (error: Error) => void): Promise<Checkout> {
    this.#checkOpen();
    signal?.throwIfAborted();
    const client = await this.#connect(({ work }) => work, signal).catch((error: unknown) => {
      if (signal?.aborted === true && error === signal.reason) throw error;
      throw this.failed("opening a transaction", error);
    });
    this.#health.up();
    // A connection that breaks while nothing is asked of it says so here, and to the next that asks something of it.
    const onError = (error: Error): void => this.#health.down(toStoreError("a connection broke", error));
    client.on("error", onError);
    const onClose = (): void => end(closedError());
    this.#open.add(onClose);
    return {
      client,
      release: (destroy) => {
        this.#open.delete(onClose);
        if (!destroy) client.off("error", onError);
        client.release(destroy);
      },
    };
  }

  /** A connection of its own, outside of the pools, for what must stay on one. The caller ends it. Rejects with `StoreError`. */
  async dial(): Promise<Client> {
    this.#checkOpen();
    const { control } = await this.#poolsOnce();
    // As the pool itself makes them, so that its every option holds.
    const { Client: Made } = control as Pool & { readonly Client: typeof Client };
    const client = new Made(control.options);
    // Without a listener, one that breaks at the wrong moment ends the process.
    client.on("error", (error: Error) => this.#health.down(toStoreError("a connection broke", error)));
    try {
      await this.#untilClosed(client.connect());
    } catch (error) {
      // It has never been of use; why it was not is thrown.
      client.end().catch(() => undefined);
      throw this.failed("opening a connection", error);
    }
    const onClose = (): void => void client.end().catch(() => undefined);
    this.#open.add(onClose);
    client.once("end", () => this.#open.delete(onClose));
    return client;
  }

  /** That of the bus, once connected. */
  get runtime(): Runtime {
    if (this.#runtime === undefined)
      throw new LifecycleError("ERR_NOT_STARTED", "the store is not connected");
    return this.#runtime;
  }

  /** The error as a `StoreError`, after noting whether it says that the database cannot be reached. */
  failed(what: string, cause: unknown): Error {
    const error = toStoreError(what, cause);
    if (isConnectionFailure(cause)) this.#health.down(error);
    return error;
  }

  health(): { readonly connected: boolean; readonly error?: Error | undefined } {
    return this.#health.now;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    for (const end of this.#open) end();
    // Pools that could not be made need no end.
    const pools = await this.#pools?.catch(() => undefined);
    if (pools === undefined) return;
    if (pools.ours) await Promise.all([...new Set([pools.work, pools.control])].map((pool) => pool.end()));
    else pools.work.off("error", this.#onIdleError);
  }

  #checkOpen(): void {
    if (this.#closing.signal.aborted) throw closedError();
  }

  #poolsOnce(): Promise<Pools> {
    this.#pools ??= this.#openPools().catch((error: unknown) => {
      this.#pools = undefined;
      throw error;
    });
    return this.#pools;
  }

  async #openPools(): Promise<Pools> {
    const { pool, pglite, config } = this.#settings;
    if (pool !== undefined) {
      pool.on("error", this.#onIdleError);
      return { work: pool, control: pool, ours: false };
    }
    const { Pool } = await loadPeer("pg", () => import("pg"));
    if (pglite !== undefined) {
      const one = new Pool({
        stream: () => new PgliteStream(pglite),
        user: "postgres",
        database: "postgres",
        ssl: false,
        max: 1,
        connectionTimeoutMillis: connectTimeoutMs,
      });
      one.on("error", this.#onIdleError);
      return { work: one, control: one, ours: true };
    }
    const common = {
      fallback_application_name: "postrider",
      keepAlive: true,
      connectionTimeoutMillis: connectTimeoutMs,
      ...config,
    };
    const work = new Pool({ ...common, max: config.max ?? workConnections });
    const control = new Pool({ ...common, min: 0, max: controlConnections });
    for (const each of [work, control]) each.on("error", this.#onIdleError);
    return { work, control, ours: true };
  }

  /** Without a listener, a connection that breaks while it idles in its pool ends the process. */
  readonly #onIdleError = (error: Error): void =>
    this.#health.down(toStoreError("an idle connection broke", error));

  async #connect(choose: (pools: Pools) => Pool, signal?: AbortSignal): Promise<PoolClient> {
    const connecting = this.#poolsOnce().then((pools) => choose(pools).connect());
    try {
      const client = await this.#untilClosed(connecting, signal);
      this.#checkOpen();
      return client;
    } catch (error) {
      // Nobody waits for it any more. If it is a rejection, it has been said.
      connecting.then((client) => client.release()).catch(() => undefined);
      throw error;
    }
  }

  /** `work`, unless the signal aborts or the store closes first: a pool that was ended serves none of those that wait. */
  #untilClosed<T>(work: Promise<T>, signal?: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      const onClose = (): void => reject(closedError());
      const onAbort = (): void => reject(signal?.reason as Error);
      this.#open.add(onClose);
      signal?.addEventListener("abort", onAbort, { once: true });
      work.then(resolve, reject).finally(() => {
        this.#open.delete(onClose);
        signal?.removeEventListener("abort", onAbort);
      });
    });
  }
}

function closedError(): LifecycleError {
  return new LifecycleError("ERR_CLOSED", "the store was closed");
}

export interface Checkout {
  readonly client: PoolClient;
  /** `true` closes the connection, and with it whatever it was doing. */
  readonly release: (destroy: boolean) => void;
}
