/**
 * What `pg` takes for a socket, with a PGlite of this process at its other end.
 *
 * A PGlite is one session that all who use it share: what somebody else says to it while a transaction is open is part of
 * that transaction. So a turn goes from the first message of a client to the end of the transaction that it may begin.
 */
import { Duplex } from "node:stream";

/** What is used of a `PGlite`. */
export interface PgliteDatabase {
  readonly waitReady: Promise<void>;
  execProtocolRaw(message: Uint8Array): Promise<Uint8Array>;
  /** What its own transactions and queries take their turns by. */
  _runExclusiveTransaction<T>(fn: () => Promise<T>): Promise<T>;
}

/** ReadyForQuery, outside of a transaction. */
const idle = Buffer.from("Z\0\0\0\u0005I", "latin1");
const rollback = Buffer.from("Q\0\0\0\u000dROLLBACK\0", "latin1");
/** Terminate. A PGlite goes on for others. */
const terminate = Buffer.from("X\0\0\0\u0004", "latin1");

export class PgliteStream extends Duplex {
  readonly #db: PgliteDatabase;
  #last: Promise<void> = Promise.resolve();
  #endTurn: (() => void) | undefined;

  constructor(db: PgliteDatabase) {
    super();
    this.#db = db;
  }

  connect(): void {
    this.#db.waitReady.then(
      () => this.emit("connect"),
      (error: Error) => this.destroy(error),
    );
  }

  override _read(): void {}

  override _write(message: Buffer, _encoding: string, done: (failure?: Error) => void): void {
    this.#last = message.equals(terminate) ? Promise.resolve() : this.#say(message);
    void this.#answered(done);
  }

  async #answered(done: (failure?: Error) => void): Promise<void> {
    const failure = await this.#last.then(
      () => undefined,
      (error: Error) => error,
    );
    done(failure);
  }

  override _final(done: () => void): void {
    done();
    this.destroy();
  }

  override _destroy(cause: Error | null, done: (cause: Error | null) => void): void {
    void this.#abandon(cause, done);
  }

  /** What was open is rolled back before anybody else has a turn, as a server does. */
  async #abandon(cause: Error | null, done: (cause: Error | null) => void): Promise<void> {
    try {
      await Promise.allSettled([this.#last]);
      if (this.#endTurn !== undefined) await this.#db.execProtocolRaw(rollback);
    } catch {
      // It is closed, and whatever was open with it.
    }
    this.#endTurn?.();
    done(cause);
  }

  async #say(message: Buffer): Promise<void> {
    this.#endTurn ??= await this.#beginTurn();
    if (this.destroyed) return;
    const answer = Buffer.from(await this.#db.execProtocolRaw(message));
    if (answer.subarray(-idle.length).equals(idle)) {
      this.#endTurn();
      this.#endTurn = undefined;
    }
    this.push(answer);
  }

  async #beginTurn(): Promise<() => void> {
    const [begun, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    // oxlint-disable-next-line no-underscore-dangle -- PGlite has no other name for it
    const turn = this.#db._runExclusiveTransaction(() => {
      begun.resolve();
      return ended.promise;
    });
    turn.catch(begun.reject);
    await begun.promise;
    return ended.resolve;
  }

  // What `pg` does to a socket.
  setNoDelay(): void {}
  setKeepAlive(): void {}
  ref(): void {}
  unref(): void {}
}
