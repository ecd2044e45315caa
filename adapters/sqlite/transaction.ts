/** One transaction of a handler or of `bus.transaction`: a turn at the file, on a connection of its own. */
import { AsyncLocalStorage } from "node:async_hooks";
import type { DatabaseSync } from "node:sqlite";
import {
  type BusEvent,
  type Cancel,
  LifecycleError,
  type MessagingError,
  StoreError,
} from "../../src/spi.ts";
import { CommitFailed, storeError } from "./errors.ts";
import type { SqliteFile } from "./file.ts";
import { keepStatements } from "./sql.ts";

/** A transaction that keeps the file for so long is reported: nobody else can write meanwhile. */
const longMs = 5_000;

/** The transaction the running code is part of: another one inside it would wait for itself. */
const scope = new AsyncLocalStorage<{ readonly file: SqliteFile; open: boolean } | undefined>();

/** Runs `act`, and what it starts, as part of no transaction. */
export function outsideTransactions<T>(act: () => T): T {
  return scope.run(undefined, act);
}

/** What `fn` rejected with, told apart from what the database rejects with. */
class FnFailed extends Error {
  readonly error: unknown;
  constructor(error: unknown) {
    super("the function failed");
    this.error = error;
  }
}

export interface Transactions {
  /** See `Store.transaction`. */
  run<T>(
    file: SqliteFile,
    fn: (tx: DatabaseSync) => Promise<T>,
    signal: AbortSignal | undefined,
    emit: (event: BusEvent) => void,
  ): Promise<T>;
  /** Abandons what is open or waits. */
  close(): void;
}

export function createTransactions(): Transactions {
  const open = new Set<AbortController>();
  return {
    async run(file, fn, signal, emit) {
      refuseNested(file);
      const abandoned = new AbortController();
      const onAbort = (): void => abandoned.abort(signal?.reason);
      if (signal?.aborted === true) onAbort();
      signal?.addEventListener("abort", onAbort, { once: true });
      open.add(abandoned);
      try {
        return await file.turn(() => runTurn(file, fn, abandoned.signal, emit), abandoned.signal);
      } catch (cause) {
        if (cause instanceof FnFailed) throw cause.error;
        if (abandoned.signal.aborted) throw abandoned.signal.reason;
        throw storeError("transaction", file.path, cause);
      } finally {
        open.delete(abandoned);
        signal?.removeEventListener("abort", onAbort);
      }
    },
    close() {
      for (const controller of open) controller.abort(closedError());
    },
  };
}

function refuseNested(file: SqliteFile): void {
  const around = scope.getStore();
  if (around?.open !== true || around.file !== file) return;
  throw new StoreError(
    "ERR_TX",
    "a transaction inside a transaction on the same SQLite file would wait for itself: use the one there is (ctx.tx)",
  );
}

/**
 * The connection is closed at the end, whatever the end is: a handler that goes on using it, or a statement it prepared,
 * gets an error, and nothing it does can take effect. Closing rolls back what was not committed.
 */
async function runTurn<T>(
  file: SqliteFile,
  fn: (tx: DatabaseSync) => Promise<T>,
  signal: AbortSignal,
  emit: (event: BusEvent) => void,
): Promise<T> {
  const { db, isCurrent } = await file.connect();
  const within = { file, open: true };
  const end = (): void => {
    within.open = false;
    closeQuietly(db);
  };
  keepStatements(db);
  signal.addEventListener("abort", end, { once: true });
  let cancelWarning: Cancel = () => undefined;
  try {
    signal.throwIfAborted();
    await file.beginOn(db, signal);
    cancelWarning = file.runtime.setTimer(longMs, () => emit(longWarning(file.path)), { unref: true });
    const result = await orAbort(
      scope.run(within, async () => fn(db)),
      signal,
    );
    if (!isCurrent()) throw replacedError(file.path);
    commit(db);
    return result;
  } finally {
    cancelWarning();
    signal.removeEventListener("abort", end);
    end();
  }
}

/** `work`, or the signal's reason as soon as it aborts. */
function orAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work
      .then(resolve, (error: unknown) => reject(new FnFailed(error)))
      .finally(() => signal.removeEventListener("abort", onAbort));
  });
}

function commit(db: DatabaseSync): void {
  try {
    db.exec("COMMIT");
  } catch (error) {
    const ended = error instanceof Error && /no transaction is active|not open/u.test(error.message);
    if (!ended) throw new CommitFailed(error);
    throw new StoreError(
      "ERR_TX",
      "the transaction was ended inside the function it was given to; leave COMMIT, ROLLBACK and close() to postrider",
      { cause: error },
    );
  }
}

function closeQuietly(db: DatabaseSync): void {
  try {
    db.close();
  } catch {
    // Closed already: by the abort, or by the function itself.
  }
}

function closedError(): MessagingError {
  return new LifecycleError("ERR_CLOSED", "the store was closed; its open transaction was rolled back");
}

function replacedError(path: string): StoreError {
  return new StoreError(
    "ERR_STORE",
    `${path} was removed or replaced while the transaction was open; it was rolled back`,
  );
}

function longWarning(path: string): BusEvent {
  return {
    type: "warning",
    code: "SQLITE_LONG_TRANSACTION",
    message: `a transaction has kept ${path} locked for ${longMs} ms; nothing else can be published or settled there meanwhile. Keep transactions short, or give the store a file of its own: createBus({ adapter: sqlite({ path }), store: sqliteStore({ path: "…" }) })`,
  };
}
