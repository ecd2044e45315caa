/**
 * The way to the database: the pools, whether it can be reached, and how the store itself uses it: by single statements, each
 * a transaction of its own, READ COMMITTED.
 */
import type { Pool, PoolConnection } from "mysql2/promise";
import {
  type DatabaseHealth,
  LifecycleError,
  type Runtime,
  type StoreContext,
  createDatabaseHealth,
  loadPeer,
} from "../../src/spi.ts";
import { isConnectionFailure, toStoreError } from "./errors.ts";
import type { Settings } from "./options.ts";
import { type Answer, type Run, runOn } from "./query.ts";
import { type Server, readServer } from "./server.ts";
import { type Sql, sql } from "./sql.ts";
import type { Tables } from "./tables.ts";

interface Pools {
  /** Transactions of handlers. */
  readonly work: Pool;
  /** Statements of relay and inbox. The same as `work` when it is the user's. */
  readonly control: Pool;
  readonly ours: boolean;
}

const workConnections = 20;
const controlConnections = 4;
/** Nothing we send takes long; only a peer that is gone without a word does. */
const answerTimeoutMs = 30_000;

export class MysqlDatabase {
  readonly #settings: Settings;
  readonly #closing = new AbortController();
  /** Ends what is still open when the store closes. */
  readonly #open = new Set<() => void>();
  /** Connections of our own control pool whose session is as we need it. */
  readonly #prepared = new WeakSet<object>();
  #pools: Promise<Pools> | undefined;
  #closed: Promise<void> | undefined;
  #runtime: Runtime | undefined;
  #server: Server | undefined;
  readonly #health: DatabaseHealth = createDatabaseHealth(
    () => this.query("reaching the database", sql`SELECT 1`),
    () => this.#runtime,
    this.#closing.signal,
  );

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** Checks that there is a server that will do. Rejects with `StoreError`. */
  async connect(context: StoreContext): Promise<void> {
    this.#runtime = context.runtime;
    const { name, flushed } = await this.identify();
    if (flushed) return;
    const message = `${name} runs with innodb_flush_log_at_trx_commit other than 1: a crash of its host loses what was committed, messages too`;
    context.emit({ type: "warning", code: "MYSQL_FLUSH", message });
  }

  /** Asks the server what it is. Rejects with `StoreError` when it will not do. */
  async identify(): Promise<Server> {
    const answer = (run: Run): Promise<Server> => readServer(run, this.#settings.prefix);
    this.#server = await this.session("connecting to the database", answer);
    return this.#server;
  }

  /** What `identify` found. */
  get server(): Server {
    if (this.#server !== undefined) return this.#server;
    throw new LifecycleError("ERR_NOT_STARTED", "the store is not connected");
  }

  get tables(): Tables {
    return this.server.tables;
  }

  /** Runs one statement in a transaction of its own. Rejects with `StoreError`. */
  query(what: string, statement: Sql): Promise<Answer> {
    return this.session(what, (run) => run(statement));
  }

  /** Runs statements one by one on one connection, each a transaction of its own. Rejects with `StoreError`. */
  session<T>(what: string, act: (run: Run) => Promise<T>): Promise<T> {
    return this.#onControl(what, async (run, connection) => {
      if (this.#settings.pool !== undefined) return onForeign(run, act);
      await this.#prepare(run, connection);
      return act(run);
    });
  }

  /**
   * A connection for a transaction, for as long as the caller needs it. Rejects with the signal's reason when that aborts
   * first. `end` is called, with what to reject with, when the store closes before `release`.
   */
  async checkout(signal: AbortSignal | undefined, end: (error: Error) => void): Promise<Checkout> {
    this.#checkOpen();
    signal?.throwIfAborted();
    const connection = await this.#connect(({ work }) => work, signal).catch((error: unknown) => {
      if (signal?.aborted === true && error === signal.reason) throw error;
      throw this.failed("opening a transaction", error);
    });
    this.#health.up();
    // A connection that breaks while nothing is asked of it says so here, and to the next that asks something of it.
    const onError = (error: Error): void => this.#health.down(toStoreError("a connection broke", error));
    connection.on("error", onError);
    const onClose = (): void => end(closedError());
    this.#open.add(onClose);
    return {
      connection,
      run: runOn(connection, answerTimeoutMs),
      release: () => {
        this.#open.delete(onClose);
        connection.off("error", onError);
        connection.release();
      },
      destroy: () => {
        this.#open.delete(onClose);
        destroy(connection);
      },
    };
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
    if (pools?.ours !== true) return;
    // What a pool says at its end is why a connection broke earlier.
    await Promise.allSettled([pools.work.end(), pools.control.end()]);
  }

  #checkOpen(): void {
    if (this.#closing.signal.aborted) throw closedError();
  }

  async #onControl<T>(what: string, act: (run: Run, connection: object) => Promise<T>): Promise<T> {
    this.#checkOpen();
    let connection: PoolConnection | undefined;
    const onError = (error: Error): void => this.#health.down(toStoreError(what, error));
    try {
      connection = await this.#connect(({ control }) => control);
      connection.on("error", onError);
      const result = await this.#untilClosed(act(runOn(connection, answerTimeoutMs), connection.connection));
      connection.off("error", onError);
      connection.release();
      this.#health.up();
      return result;
    } catch (error) {
      if (connection !== undefined) destroy(connection);
      throw this.failed(what, error);
    }
  }

  async #prepare(run: Run, connection: object): Promise<void> {
    if (this.#prepared.has(connection)) return;
    await run(sql`SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED`);
    await run(sql`SET SESSION autocommit = 1, SESSION sql_mode = 'STRICT_ALL_TABLES'`);
    this.#prepared.add(connection);
  }

  #poolsOnce(): Promise<Pools> {
    this.#pools ??= this.#openPools().catch((error: unknown) => {
      this.#pools = undefined;
      throw error;
    });
    return this.#pools;
  }

  async #openPools(): Promise<Pools> {
    const { pool, config } = this.#settings;
    if (pool !== undefined) return { work: pool, control: pool, ours: false };
    const { createPool } = await loadPeer("mysql2", () => import("mysql2/promise"));
    // `mysql2` writes into what it is given.
    const open = (connectionLimit: number): Pool => createPool({ ...config, connectionLimit });
    const work = open(config.connectionLimit ?? workConnections);
    return { work, control: open(controlConnections), ours: true };
  }

  async #connect(choose: (pools: Pools) => Pool, signal?: AbortSignal): Promise<PoolConnection> {
    const connecting = this.#poolsOnce().then((pools) => choose(pools).getConnection());
    try {
      const connection = await this.#untilClosed(connecting, signal);
      this.#checkOpen();
      return connection;
    } catch (error) {
      // Nobody waits for it any more. If it is a rejection, it has been said.
      connecting.then((connection) => connection.release()).catch(() => undefined);
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

/**
 * On a session of the user's nothing is known, not even that it commits by itself. Not by a transaction around it all: a
 * process that is stopped would keep what it has locked.
 */
async function onForeign<T>(run: Run, act: (run: Run) => Promise<T>): Promise<T> {
  await run(sql`SET @postrider_autocommit = @@autocommit, SESSION autocommit = 1`);
  const result = await act(async (statement) => {
    await run(sql`SET TRANSACTION ISOLATION LEVEL READ COMMITTED`);
    return run(statement);
  });
  await run(sql`SET SESSION autocommit = @postrider_autocommit`);
  return result;
}

/**
 * Closes a connection in a way that those who wait for its answers learn of it: `mysql2` leaves them waiting when it is told
 * to destroy one.
 */
function destroy(connection: PoolConnection): void {
  const { stream } = connection.connection as unknown as {
    readonly stream?: { destroy(error: Error): void };
  };
  connection.on("error", () => undefined);
  stream?.destroy(new Error("the connection was closed"));
  connection.destroy();
}

function closedError(): LifecycleError {
  return new LifecycleError("ERR_CLOSED", "the store was closed");
}

export interface Checkout {
  readonly connection: PoolConnection;
  readonly run: Run;
  readonly release: () => void;
  /** Closes the connection, and with it whatever it was doing. */
  readonly destroy: () => void;
}
