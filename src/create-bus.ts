/** `createBus`: checks its options and puts a bus together. */
import type { DatabaseSync } from "node:sqlite";
import type { Adapter } from "./adapter.ts";
import { adapterFromUrl } from "./backends.ts";
import type { Bus } from "./bus.ts";
import { type Runtime, nodeRuntime } from "./clock.ts";
import { type Duration, toMs } from "./duration.ts";
import { ConfigurationError } from "./errors.ts";
import { type EventListener, type Logger, createEmitter, logEvents, warnOnce } from "./events.ts";
import { show } from "./inspect.ts";
import { checkPrefix } from "./names.ts";
import { checkBoolean, checkFunction, checkInteger, checkKeys, checkString } from "./options.ts";
import { PostriderBus } from "./postrider-bus.ts";
import type { Store } from "./store.ts";

export interface BusOptions<Tx = unknown, Handle = unknown> {
  /**
   * The broker: an adapter such as `rabbitmq({ … })`, or a URL: `amqp://…`, `amqps://…`, `kafka://…`, `redis://…`,
   * `rediss://…`, `sqlite:./app.db`, `memory:`. Default: `sqlite:./.postrider/bus.db`, an embedded broker and store that
   * needs no server.
   */
  readonly adapter?: Adapter | string | undefined;
  /** The database of outbox, inbox and idempotency. Default: the adapter's own, where it has one (SQLite). */
  readonly store?: Store<Tx, Handle> | undefined;
  /** CloudEvents source of what this service sends. Default `"postrider"`. */
  readonly source?: string | undefined;
  /** Pino-shaped; `console` works too. Default: silent, warnings go once each to `process.emitWarning`. */
  readonly logger?: Logger | undefined;
  /** Gets every event. One that throws is ignored. */
  readonly onEvent?: EventListener | undefined;
  /** In front of every name on the broker, such as `"staging."`. */
  readonly prefix?: string | undefined;
  /** `true`: `publish` outside `outbox(tx)` rejects, so that no message silently bypasses the outbox. Default `false`. */
  readonly outboxOnly?: boolean | undefined;
  /** Longest wait for the first connection, retries included. Default `"10s"`. */
  readonly connectTimeout?: Duration | undefined;
  /** Longest wait for a confirmation, retries included. Default `"30s"`. */
  readonly publishTimeout?: Duration | undefined;
  /**
   * Messages of `publish` and `publishAll` that may wait for their confirmation at once, 1..10,000,000. Beyond, publishing is
   * refused at once with `ERR_BACKLOG`: surely not sent, and worth another try. One `publishAll` is let in as a whole.
   * What the relay and `redrive` send is not counted. Default 100,000.
   */
  readonly maxPending?: number | undefined;
  /** How long `close` lets handlers finish. Default `"20s"`. */
  readonly drainTimeout?: Duration | undefined;
  /** Largest payload in bytes, at most what the adapter takes. Default 1 MiB. */
  readonly maxBytes?: number | undefined;
  /** How long the inbox remembers a message; longer than retries and redrives take. Default `"7d"`. */
  readonly inboxRetention?: Duration | undefined;
  /** Time, timers, randomness and ids; for tests. */
  readonly runtime?: Runtime | undefined;
}

const knownOptions = [
  "adapter",
  "store",
  "source",
  "logger",
  "onEvent",
  "prefix",
  "outboxOnly",
  "connectTimeout",
  "publishTimeout",
  "maxPending",
  "drainTimeout",
  "maxBytes",
  "inboxRetention",
  "runtime",
] as const satisfies readonly (keyof BusOptions)[];

/**
 * Makes a bus. Synchronous: it connects on first use, or on `await bus.connect()`. Throws `ConfigurationError`
 * (`ERR_CONFIG`) on an unknown or wrong option, naming it.
 *
 * @example
 * await using bus = createBus({ adapter: rabbitmq({ url: "amqp://localhost" }), store: postgres({ pool }), source: "shop" });
 * @example
 * await using bus = createBus(); // embedded: broker, outbox and inbox in ./.postrider/bus.db
 */
export function createBus<Tx = DatabaseSync, Handle = DatabaseSync>(
  options: BusOptions<Tx, Handle> = {},
): Bus<Tx, Handle> {
  checkKeys("createBus", options, knownOptions);
  if (options.onEvent !== undefined) checkFunction("onEvent", options.onEvent);
  const prefix = options.prefix ?? "";
  checkPrefix(prefix);
  if (options.logger !== undefined) checkLogger(options.logger);
  if (options.store !== undefined) checkStore(options.store);
  const adapter = checkAdapter(
    options.adapter === undefined ? "sqlite:./.postrider/bus.db" : options.adapter,
  );
  const runtime = options.runtime ?? nodeRuntime;
  const listeners = [
    ...(options.onEvent === undefined ? [] : [options.onEvent]),
    options.logger === undefined ? warnOnce() : logEvents(options.logger),
  ];
  const maxBytes = checkInteger("maxBytes", options.maxBytes ?? 1_048_576, 1, 1_073_741_824);
  const context = {
    adapter,
    store: options.store ?? adapter.store,
    runtime,
    emit: createEmitter(listeners),
    logger: options.logger,
    prefix,
    outboxOnly: checkBoolean("outboxOnly", options.outboxOnly ?? false),
    envelope: {
      runtime,
      source: checkString("source", options.source ?? "postrider", 255),
      maxBytes: Math.min(maxBytes, adapter.capabilities.maxBytes),
    },
    connectTimeoutMs: toMs(options.connectTimeout ?? "10s", "connectTimeout", { min: 1 }),
    publishTimeoutMs: toMs(options.publishTimeout ?? "30s", "publishTimeout", { min: 1 }),
    maxPending: checkInteger("maxPending", options.maxPending ?? 100_000, 1, 10_000_000),
    drainTimeoutMs: toMs(options.drainTimeout ?? "20s", "drainTimeout"),
    inboxRetentionMs: toMs(options.inboxRetention ?? "7d", "inboxRetention", { min: 60_000 }),
  };
  // After all other checks: a call that throws must not keep the adapter.
  claimAdapter(adapter);
  return new PostriderBus(context) as Bus<Tx, Handle>;
}

/** Adapters that belong to a bus. */
const claimed = new WeakSet<Adapter>();

function claimAdapter(adapter: Adapter): void {
  if (claimed.has(adapter)) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      "this adapter belongs to another bus, which would close it; make one adapter for each bus",
    );
  }
  claimed.add(adapter);
}

function checkLogger(logger: Logger | null): void {
  for (const level of ["debug", "info", "warn", "error"] as const) {
    checkFunction(`logger.${level}`, logger?.[level]);
  }
}

function checkStore(store: Partial<Store> | null): void {
  if (typeof store?.transaction === "function" && typeof store.outbox === "object") return;
  throw new ConfigurationError(
    "ERR_CONFIG",
    `store must be a store such as postgres({ pool }), got ${show(store)}`,
  );
}

function checkAdapter(adapter: Adapter | string): Adapter {
  if (typeof adapter === "string") return adapterFromUrl(adapter);
  if (typeof adapter !== "object" || adapter === null || typeof adapter.publish !== "function") {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `adapter must be an adapter such as rabbitmq({ … }) or a URL such as "amqp://localhost", got ${show(adapter)}`,
    );
  }
  return adapter;
}
