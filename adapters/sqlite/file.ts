/**
 * One SQLite file in this process: the connection everything of ours reads and writes through, the queue of writers, and
 * the look-out for what other connections commit.
 */
import type { DatabaseSync } from "node:sqlite";
import { type Cancel, LifecycleError, type Runtime, jittered, retryLoop } from "../../src/spi.ts";
import { isBusy } from "./errors.ts";
import { identityOf, openConnection, openDatabase, watchLog } from "./open.ts";
import { WriteQueue } from "./queue.ts";
import { type Part, versionOf, migrate } from "./schema.ts";
import { Sql } from "./sql.ts";
import { Watch } from "./watch.ts";

/** How long another connection may keep the lock before a write is given up (nothing was written then). */
const lockPatienceMs = 10_000;
/** After nobody could write for so long, */
const stallMs = 100;
/** leases that have run out are left alone for so long: their holders, who could not extend them, come first. */
const graceMs = 1_000;
/** But however often that happens, no longer than this. */
const maxGraceMs = 5_000;

export class SqliteFile {
  readonly path: string;
  readonly runtime: Runtime;
  readonly #queue: WriteQueue;
  readonly #watch: Watch;
  readonly #parts = new Set<Part>();
  readonly #reopened = new Set<() => void>();
  readonly #backoff: (attempt: number) => number;
  #main: { readonly sql: Sql; readonly identity: string } | undefined;
  #opening: Promise<Sql> | undefined;
  #wasOpen = false;
  #closed = false;
  #graceUntil = 0;
  #unfairSince: number | undefined;

  constructor(path: string, runtime: Runtime) {
    this.path = path;
    this.runtime = runtime;
    this.#backoff = jittered(runtime, "sqlite", 2, 50);
    this.#queue = new WriteQueue({
      runtime,
      begin: () => this.#begin(),
      held: (ms) => {
        if (ms >= stallMs) this.#giveGrace();
      },
    });
    this.#watch = new Watch(runtime, {
      dataVersion: () => this.#main?.sql.get<{ data_version: number }>("PRAGMA data_version")?.data_version,
      onLogWritten: (listener) => watchLog(path, listener),
      isReplaced: () => this.#main !== undefined && !this.#isSameFile(this.#main.identity),
      replaced: () => void this.#ready().catch(() => undefined),
      stalled: () => this.#giveGrace(),
    });
  }

  /** Makes sure the tables of `part` are there, now and whenever the file has to be opened anew. Resolves with the version found. */
  async prepare(part: Part): Promise<number> {
    this.#parts.add(part);
    const found = await this.read((sql) => versionOf(sql, part));
    if (found === part.version) return found;
    return this.write((sql) => migrate(sql, part));
  }

  /** Runs `read` on what is committed. It must do nothing but SQL. */
  async read<T>(read: (sql: Sql) => T): Promise<T> {
    const sql = await this.#ready();
    return this.#insist(() => read(sql));
  }

  /** See `WriteQueue.write`. */
  write<T>(run: (sql: Sql) => T, patienceMs?: number): Promise<T> {
    if (this.#closed) return Promise.reject(closedError(this.path));
    return this.#queue.write(run, patienceMs);
  }

  /** See `WriteQueue.turn`. `act` gets the write lock for itself in this process; `beginOn` begins a transaction. */
  turn<T>(act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (this.#closed) return Promise.reject(closedError(this.path));
    return this.#queue.turn(act, signal);
  }

  /** A connection of its own, for one transaction; `isCurrent` tells whether the path still leads to its file. */
  async connect(): Promise<{ readonly db: DatabaseSync; readonly isCurrent: () => boolean }> {
    await this.#ready();
    const identity = this.#main?.identity ?? "";
    const db = await this.#insist(() => openConnection(this.path));
    return { db, isCurrent: () => this.#isSameFile(identity) };
  }

  /** Begins a write transaction on `db`, waiting for other connections without blocking. */
  async beginOn(db: DatabaseSync, signal?: AbortSignal): Promise<void> {
    await this.#insist(() => db.exec("BEGIN IMMEDIATE"), signal);
  }

  /** Tries `act` again while another connection is in the way, for at most ten seconds. */
  insist<T>(act: () => T): Promise<T> {
    return this.#insist(act);
  }

  /** Calls back when another connection has committed, or `poke(topic)` was called. */
  onChange(topic: string, listener: () => void): Cancel {
    return this.#watch.add(topic, listener);
  }

  /** Tells this process's listeners of `topic` that there is something new. */
  poke(topic: string): void {
    this.#watch.poke(topic);
  }

  /** Calls back when the wall clock has jumped. */
  onClockJump(listener: () => void): Cancel {
    return this.#watch.onClockJump(listener);
  }

  /** Calls back after the file was found removed or replaced, and made anew with its tables, empty. */
  onReopened(listener: () => void): Cancel {
    this.#reopened.add(listener);
    return () => void this.#reopened.delete(listener);
  }

  /**
   * Whether holders of leases have had their chance to extend them: nobody was kept from writing just now. Asked when there
   * is a lease that has run out; from the first time on it is `true` after five seconds at the latest.
   */
  leasesAreFair(): boolean {
    this.#watch.checkClocks();
    const now = this.runtime.monotonic();
    if (now >= this.#graceUntil) {
      this.#unfairSince = undefined;
      return true;
    }
    this.#unfairSince ??= now;
    return now - this.#unfairSince >= maxGraceMs;
  }

  async close(): Promise<void> {
    await this.#queue.idle();
    this.#closed = true;
    this.#watch.close();
    this.#drop();
  }

  #giveGrace(): void {
    this.#graceUntil = this.runtime.monotonic() + graceMs;
  }

  /** The connection; opened on first use, and anew when the file at the path is no longer the one that was opened. */
  async #ready(): Promise<Sql> {
    if (this.#closed) throw closedError(this.path);
    if (this.#main !== undefined && this.#isSameFile(this.#main.identity)) return this.#main.sql;
    this.#opening ??= this.#open().finally(() => (this.#opening = undefined));
    return this.#opening;
  }

  async #open(): Promise<Sql> {
    // Nothing acknowledged may go into a file that nobody will find. SQLite itself leaves the new file's log alone here.
    this.#drop();
    const sql = new Sql(await this.#insist(() => openDatabase(this.path)));
    try {
      const identity = identityOf(this.path);
      if (identity === undefined) throw new Error(`${this.path} was removed while it was opened`);
      for (const part of this.#parts) await this.#insist(() => migrateAlone(sql, part));
      this.#main = { sql, identity };
    } catch (error) {
      sql.db.close();
      throw error;
    }
    this.#watch.restart();
    if (this.#wasOpen) for (const listener of this.#reopened) listener();
    this.#wasOpen = true;
    return sql;
  }

  async #begin(): Promise<Sql> {
    const sql = await this.#ready();
    try {
      await this.#insist(() => sql.run("BEGIN IMMEDIATE"));
      return sql;
    } catch (error) {
      // Whatever has happened to this connection: the next write gets another.
      if (!isBusy(error)) this.#drop();
      throw error;
    }
  }

  #insist<T>(act: () => T, signal?: AbortSignal): Promise<T> {
    const { runtime } = this;
    try {
      return Promise.resolve(act());
    } catch (error) {
      if (!isBusy(error)) return Promise.reject(error);
    }
    const deadline = runtime.monotonic() + lockPatienceMs;
    return retryLoop(
      (ms) => runtime.sleep(ms, signal),
      async () => act(),
      (error, attempt) =>
        isBusy(error) && runtime.monotonic() < deadline ? this.#backoff(attempt) : undefined,
    );
  }

  #isSameFile(identity: string): boolean {
    return identityOf(this.path) === identity;
  }

  #drop(): void {
    this.#main?.sql.db.close();
    this.#main = undefined;
  }
}

function migrateAlone(sql: Sql, part: Part): void {
  if (versionOf(sql, part) === part.version) return;
  sql.run("BEGIN IMMEDIATE");
  try {
    migrate(sql, part);
    sql.run("COMMIT");
  } catch (error) {
    sql.run("ROLLBACK");
    throw error;
  }
}

function closedError(path: string): LifecycleError {
  return new LifecycleError("ERR_CLOSED", `${path} was closed`);
}
