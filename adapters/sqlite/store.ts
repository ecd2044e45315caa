/** The store: outbox, inbox and transactions in one SQLite file. */
import type { DatabaseSync } from "node:sqlite";
import {
  type InboxStore,
  LifecycleError,
  type MessagingError,
  type OutboxStore,
  type PreparedStore,
  type Store,
  type StoreContext,
} from "../../src/spi.ts";
import { storeError } from "./errors.ts";
import type { SqliteFile } from "./file.ts";
import { acquireFile, releaseFile, versionAt } from "./files.ts";
import { createInboxStore } from "./inbox.ts";
import { createOutboxStore } from "./outbox.ts";
import { createPreparedStore } from "./prepared.ts";
import { stepsOf, storePart } from "./schema.ts";
import { createTransactions } from "./transaction.ts";

type Guard = <Args extends unknown[], R>(
  what: string,
  act: (...args: Args) => Promise<R>,
) => (...args: Args) => Promise<R>;

/** The store at `path`, an absolute one. Opens nothing before `connect`. */
export function createStore(path: string): Store<DatabaseSync, DatabaseSync> {
  let file: SqliteFile | undefined;
  let context: StoreContext | undefined;
  let error: MessagingError | undefined;
  const transactions = createTransactions();

  const open = (): SqliteFile => {
    if (file !== undefined) return file;
    throw new LifecycleError("ERR_NOT_STARTED", `the store in ${path} is not connected`);
  };

  /** Whatever a method rejects with is a `MessagingError`; a failure of the database shows in `health`. */
  const guard: Guard =
    (what, act) =>
    async (...args) => {
      try {
        const result = await act(...args);
        error = undefined;
        return result;
      } catch (cause) {
        const failure = storeError(what, path, cause);
        if (failure.code === "ERR_STORE") error = failure;
        throw failure;
      }
    };

  return {
    name: "sqlite",
    concurrentTransactions: false,
    migratesItself: true,
    connect: guard("connect", async (given: StoreContext) => {
      context = given;
      file ??= acquireFile(path, given.runtime);
      await file.prepare(storePart);
    }),
    migrate: guard("migrate", async () => ({
      from: await open().prepare(storePart),
      to: storePart.version,
    })),
    version: guard("version", async () => ({ have: versionAt(path, storePart), known: storePart.version })),
    migrations: () =>
      stepsOf(storePart).map((step) =>
        step.map((each) => `${each.replaceAll("\n      ", "\n")};`).join("\n"),
      ),
    async transaction(fn, signal) {
      return transactions.run(open(), fn, signal, (event) => context?.emit(event));
    },
    outbox: guardAll(createOutboxStore({ file: open, path }), "outbox", guard),
    inbox: guardAll(createInboxStore({ file: open, path }), "inbox", guard),
    prepared: guardAll(createPreparedStore({ file: open, path }), "prepared", guard),
    health: () => ({ connected: file !== undefined && error === undefined, error }),
    async close() {
      const closing = file;
      file = undefined;
      transactions.close();
      if (closing !== undefined) await releaseFile(closing);
    },
  };
}

/** The same methods, guarded. */
function guardAll<Methods extends OutboxStore | InboxStore<DatabaseSync> | PreparedStore<DatabaseSync>>(
  methods: Methods,
  what: string,
  guard: Guard,
): Methods {
  const guarded = Object.entries(methods).map(([name, act]) => [
    name,
    guard(`${what} ${name}`, act as (...args: unknown[]) => Promise<unknown>),
  ]);
  return Object.fromEntries(guarded) as Methods;
}
