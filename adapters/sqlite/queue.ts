/**
 * Who writes when. SQLite has one writer at a time, and node:sqlite blocks the event loop while it waits for its turn: a
 * handler's transaction open in this process would then wait for itself for ever. So everything of ours that writes to
 * one file from this process takes its turn here, without blocking:
 *
 * - short writes are synchronous functions; those that wait together share one transaction, that is one fsync;
 * - a long turn (a handler's transaction, which may await anything) has the file for itself;
 * - neither starves the other: writes wait for some turns, not long, and then go together.
 *
 * Other processes, and the user's own handles, take part through SQLite's lock, which is asked for again and again.
 */
import type { Cancel, Runtime } from "../../src/spi.ts";
import { CommitFailed, WaitedTooLong } from "./errors.ts";
import type { Sql } from "./sql.ts";

export interface QueueHost {
  readonly runtime: Runtime;
  /** Resolves with a write transaction begun; rejects when another connection keeps the lock. */
  begin(): Promise<Sql>;
  /** A transaction, or the wait for one, has kept others from writing for so long. */
  held(ms: number): void;
}

interface Write {
  readonly since: number;
  readonly run: (sql: Sql) => unknown;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** Writes beyond this time go into the next transaction, so that the event loop gets air. */
const maxGroupMs = 20;
/** Turns that are waiting may go first for so long: their acknowledgements then share a flush. */
const writeDelayMs = 5;
/** How long one turn may last before others stop waiting for its end: it may be waiting for one of them. */
const turnPatienceMs = 30_000;

export class WriteQueue {
  readonly #host: QueueHost;
  #writes: Write[] = [];
  #turns: (() => Promise<void>)[] = [];
  #turnSince: number | undefined;
  #draining: Promise<void> | undefined;

  constructor(host: QueueHost) {
    this.#host = host;
  }

  /**
   * Runs `run` in a write transaction and resolves with its result once that is committed. It may share its transaction
   * with other writes and may be run again after theirs failed, so it must do nothing but SQL. Rejects with its error,
   * with SQLite's, or after `patienceMs` behind a long turn with `WaitedTooLong`; then it has not taken effect.
   */
  write<T>(run: (sql: Sql) => T, patienceMs: number = Infinity): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const write: Write = {
        since: this.#host.runtime.monotonic(),
        run,
        resolve: resolve as (value: unknown) => void,
        reject,
      };
      this.#writes.push(write);
      if (patienceMs !== Infinity) this.#limit(write, patienceMs);
      this.#wake();
    });
  }

  /**
   * Runs `act` when no other turn and no write of this process is under way. Rejects like `act`, with the reason of `signal`,
   * or with `WaitedTooLong` behind a turn that does not end.
   */
  turn<T>(act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const { runtime } = this.#host;
    return new Promise<T>((resolve, reject) => {
      if (signal?.aborted === true) return reject(signal.reason as Error);
      let cancel: Cancel = () => undefined;
      const end = (): void => {
        cancel();
        signal?.removeEventListener("abort", onAbort);
      };
      const leave = (reason: unknown): void => {
        this.#turns = this.#turns.filter((turn) => turn !== start);
        end();
        reject(reason);
      };
      const onAbort = (): void => leave(signal?.reason);
      const limit = (): void => {
        const leftMs = turnPatienceMs - this.#turnMs();
        if (leftMs <= 0) leave(this.#waitedTooLong());
        else cancel = runtime.setTimer(leftMs, limit, { unref: true });
      };
      const start = (): Promise<void> => {
        end();
        return act().then(resolve, reject);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      limit();
      this.#turns.push(start);
      this.#wake();
    });
  }

  /** Resolves when nothing waits or runs. */
  async idle(): Promise<void> {
    while (this.#draining !== undefined) await this.#draining;
  }

  #limit(write: Write, patienceMs: number): void {
    const giveUp = (): void => {
      if (!this.#writes.includes(write)) return;
      // Without a turn it is another connection that is in the way; the attempt to begin has its own limit.
      if (this.#turnSince === undefined) return this.#limit(write, patienceMs);
      this.#writes = this.#writes.filter((other) => other !== write);
      write.reject(this.#waitedTooLong());
    };
    this.#host.runtime.setTimer(patienceMs, giveUp, { unref: true });
  }

  /** For how long the present turn has lasted. */
  #turnMs(): number {
    return this.#turnSince === undefined ? 0 : this.#host.runtime.monotonic() - this.#turnSince;
  }

  #waitedTooLong(): WaitedTooLong {
    return new WaitedTooLong(
      `a transaction of this process has been open for ${Math.round(this.#turnMs())} ms and nothing else can be written meanwhile. ` +
        "What waits for its end cannot be awaited inside it: there use ctx.publish or bus.outbox(tx), or give the store a file of its own",
    );
  }

  #wake(): void {
    if (this.#draining !== undefined) return;
    this.#draining = this.#drain().finally(() => {
      this.#draining = undefined;
      if (this.#writes.length > 0 || this.#turns.length > 0) this.#wake();
    });
  }

  async #drain(): Promise<void> {
    const { runtime } = this.#host;
    for (;;) {
      // Lets what else this turn of the event loop brings join, and timers and I/O have theirs.
      await new Promise<void>((resolve) => runtime.defer(resolve));
      if (this.#writes.length === 0 && this.#turns.length === 0) return;
      if (this.#writesAreNext()) await this.#commitGroup();
      const start = this.#turns.shift();
      if (start === undefined) continue;
      this.#turnSince = runtime.monotonic();
      await start();
      this.#host.held(runtime.monotonic() - this.#turnSince);
      this.#turnSince = undefined;
    }
  }

  #writesAreNext(): boolean {
    const oldest = this.#writes[0];
    if (oldest === undefined) return false;
    return this.#turns.length === 0 || this.#host.runtime.monotonic() - oldest.since >= writeDelayMs;
  }

  async #commitGroup(): Promise<void> {
    const { runtime } = this.#host;
    let sql: Sql;
    const asked = runtime.monotonic();
    try {
      sql = await this.#host.begin();
    } catch (error) {
      for (const { reject } of this.#writes.splice(0)) reject(error);
      return;
    } finally {
      this.#host.held(runtime.monotonic() - asked);
    }
    this.#commit(sql);
  }

  /** Synchronous from the first write to the commit: nobody else of this process can come between. */
  #commit(sql: Sql): void {
    const { runtime } = this.#host;
    const started = runtime.monotonic();
    const group: { readonly write: Write; readonly result: unknown }[] = [];
    while (this.#writes.length > 0 && (group.length === 0 || runtime.monotonic() - started < maxGroupMs)) {
      const write = this.#writes.shift() as Write;
      try {
        group.push({ write, result: write.run(sql) });
      } catch (error) {
        // Only this one has failed; the others run again in the next transaction.
        rollBack(sql);
        this.#writes.unshift(...group.map((done) => done.write));
        write.reject(error);
        return;
      }
    }
    try {
      sql.run("COMMIT");
    } catch (error) {
      rollBack(sql);
      const failed = new CommitFailed(error);
      for (const { write } of group) write.reject(failed);
      return;
    }
    for (const { write, result } of group) write.resolve(result);
  }
}

function rollBack(sql: Sql): void {
  try {
    sql.run("ROLLBACK");
  } catch {
    // SQLite has rolled back by itself; should it not have, the next BEGIN fails and the connection is opened anew.
  }
}
