/**
 * The embedded default: broker, outbox, inbox and idempotency in one crash-safe SQLite file, for several processes on one
 * host. On `node:sqlite`, which is part of Node: no server, no dependency.
 *
 * SQLite has one writer at a time. A handler with `once: "transaction"`, or `bus.transaction`, is that writer while it runs:
 * keep it short, send with `ctx.publish` or the given outbox (a `bus.publish` awaited inside waits for itself, until its
 * timeout rejects it), and write from the same process through `bus.transaction`, which waits its turn without blocking.
 * Where that is too narrow, give the store a file of its own: `createBus({ adapter: sqlite(…), store: sqliteStore(…) })`.
 */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { DatabaseSync } from "node:sqlite";
import {
  type Adapter,
  type Capabilities,
  ConfigurationError,
  type Store,
  checkKeys,
  checkString,
} from "../../src/spi.ts";
import { SqliteConnection } from "./connection.ts";
import { openCursor } from "./dead-letters.ts";
import { cancelDelayed, maxDelayMs, publishBatch } from "./publisher.ts";
import { createStore } from "./store.ts";
import { SqliteSubscription } from "./subscriber.ts";

export interface SqliteOptions {
  /**
   * The file, relative to the working folder. It and its folder are made when they are not there; it may also be a database
   * of yours: our tables are called `postrider_…`. It is put into WAL mode for good, and keeps the size it once had (`VACUUM`
   * shrinks it). On a local disk, not on a network share. Within this process open it with node:sqlite only: a second copy
   * of SQLite in one process (better-sqlite3) would undo its locks.
   */
  readonly path: string;
}

/** The adapter with the store that lives in the same file. */
export interface SqliteAdapter extends Adapter {
  readonly store: Store<DatabaseSync, DatabaseSync>;
}

const capabilities: Capabilities = {
  persistent: true,
  server: false,
  retains: true,
  ordering: "key",
  deliveryCount: true,
  settlement: "atomic",
  dedupe: true,
  durability: ["none", "accepted", "replicated"],
  maxDelayMs,
  cancel: true,
  maxBytes: 64 * 1_048_576,
};

/**
 * A broker in a file. Every level of durability is on disk (flushed) before a publish resolves. With `order: "key"`, a
 * delayed message holds later ones of its key back until it is handled. Throws `ERR_CONFIG` on a wrong option.
 *
 * @example
 * await using bus = createBus({ adapter: sqlite({ path: "./app.db" }) });
 */
export function sqlite(options: SqliteOptions): SqliteAdapter {
  const path = checkPath("sqlite", options);
  const connection = new SqliteConnection(path);
  const subscriptions = new Set<SqliteSubscription>();
  return {
    name: "sqlite",
    capabilities,
    publishLimits: { maxBatch: 1_000, maxInFlight: 1 },
    store: createStore(path),
    connect: (context) => connection.connect(context),
    declare: (topology) => connection.declare(topology),
    publish: (batch) => publishBatch(connection, batch),
    cancel: (topic, id) => cancelDelayed(connection, connection.nameOf(topic), id),
    async subscribe(spec, sink) {
      const group = await connection.group(spec);
      const subscription = new SqliteSubscription(connection, spec, sink, group);
      subscriptions.add(subscription);
      return subscription;
    },
    openDeadLetters: (spec) => openCursor(connection, spec),
    health: () => connection.health(),
    async close() {
      for (const subscription of subscriptions) await subscription.close();
      subscriptions.clear();
      await connection.close();
    },
  };
}

/**
 * Outbox, inbox and idempotency in a SQLite file, beside any broker. `bus.outbox(db)` takes a `DatabaseSync` of yours on the
 * same file with an open transaction. Makes its tables by itself. Throws `ERR_CONFIG` on a wrong option.
 *
 * @example
 * await using bus = createBus({ adapter: rabbitmq({ url }), store: sqliteStore({ path: "./app.db" }) });
 */
export function sqliteStore(options: SqliteOptions): Store<DatabaseSync, DatabaseSync> {
  return createStore(checkPath("sqliteStore", options));
}

/** The absolute path. Opens nothing. */
function checkPath(where: string, options: SqliteOptions): string {
  checkKeys(where, options, ["path"]);
  const path = checkString(`${where} path`, options.path, 4_096);
  const refuse = (why: string): never => {
    throw new ConfigurationError("ERR_CONFIG", `${where} path "${path}" ${why}`);
  };
  // Every connection to it would be a database of its own.
  if (path.startsWith(":memory:") || /^file:.*(:memory:|mode=memory)/u.test(path))
    refuse(
      'is in memory and cannot be shared by connections; for tests use createBus({ adapter: "memory:" })',
    );
  if (path.startsWith("file:")) {
    if (/[?#]/u.test(path)) refuse("is a URI with parameters; give a plain path");
    try {
      return fileURLToPath(path);
    } catch {
      refuse("is no file URL; give a plain path");
    }
  }
  // "sqlite://app.db" is meant to be a relative path and would be /app.db.
  if (/^\/\/[^/]/u.test(path))
    refuse(
      "begins with two slashes; write sqlite:./app.db for a relative path, sqlite:/var/lib/app.db for an absolute one",
    );
  if (path.includes("\0")) refuse("contains a NUL character");
  return resolve(path);
}
