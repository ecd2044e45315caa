/** The bus: what users hold. It wires producer, consumers, outbox, relay and dead letters to one adapter and one store. */
import type { Capabilities } from "./capabilities.ts";
import type { Check } from "./check-back.ts";
import type { CloseOptions, Consumer } from "./consumer.ts";
import type { AnyMiddleware, ConsumeOptions, Handler, Once } from "./consume.ts";
import type { DeadLetters } from "./dead-letters.ts";
import type { Health } from "./health.ts";
import type { RelayOptions } from "./outbox/relay-options.ts";
import type { Relay } from "./outbox/relay.ts";
import type { Prepared, Undecided } from "./prepared.ts";
import type { PublishOptions, Publisher } from "./publisher.ts";
import type { OnceByLeaseOptions, OnceOptions } from "./run-once.ts";
import type { MigrationReport } from "./store.ts";
import type { Topic } from "./topic.ts";

/** Topology to make ahead of time. */
export interface DeclareOptions {
  readonly topics?: readonly Topic[] | undefined;
  /** Topics by group: `{ billing: [OrderPlaced] }`. */
  readonly groups?: Readonly<Record<string, readonly Topic[]>> | undefined;
}

/**
 * One producer and consumer API over one broker. Made by `createBus`. Connects on first use; `await using` closes it.
 * `Tx` is what handlers with `once: "transaction"` get as `ctx.tx`, `Handle` what `outbox` takes.
 */
export interface Bus<Tx = unknown, Handle = unknown> extends Publisher, AsyncDisposable {
  /**
   * Consumes a topic as one of the consumers of `group`. Each group gets every message once handled, dead-lettered or
   * discarded. Resolves when messages published from now on are sure to arrive. The handler's return is the ack, its
   * throw a retry by policy; it may also return `retryAfter`, `deadLetter` or `discard`. Rejects with
   * `ConfigurationError` (`ERR_CONFIG`, `ERR_CAPABILITY`), `StoreError` `ERR_SCHEMA`, or `TransportError`.
   */
  consume<Input, Output, Keyed extends boolean, const Mode extends Once = Once>(
    topic: Topic<Input, Output, Keyed>,
    options: ConsumeOptions<Output, Tx, Keyed, Mode>,
    handler: Handler<Output, Tx, Mode>,
  ): Promise<Consumer>;
  /**
   * Takes a delayed message back by its id (`receipt.id`). `true`: no group will get it, and its id may be used again.
   * `false`: unknown, or too late, because its delay has passed; one that waits in an outbox has not been sent yet and is
   * unknown too. What waits for a retry has come already and cannot be taken back. Rejects with `ERR_CAPABILITY` where the
   * broker cannot (`bus.capabilities.cancel`), and with `TransportError` when it does not answer: then call again.
   *
   * @example
   * const reminder = await bus.publish(PaymentReminder, order, { delay: "3d" });
   * await bus.cancel(PaymentReminder, reminder.id); // paid meanwhile
   */
  cancel<Input, Output>(topic: Topic<Input, Output>, id: string): Promise<boolean>;
  /** Puts middleware around the handlers of consumers started from now on, outermost first. */
  use(middleware: AnyMiddleware): void;
  /** Publishes inside the caller's own open transaction: the messages leave if and only if it commits. A relay must run. */
  outbox(handle: Handle): Publisher;
  /**
   * Runs `fn` in one transaction of the store and commits when it resolves; rolls back and rejects with its error when it
   * rejects. What `fn` publishes through `outbox` leaves with the commit. With SQLite this is the way to write from a
   * process that also consumes: it waits its turn without blocking the event loop.
   */
  transaction<T>(fn: (tx: Tx, outbox: Publisher) => Promise<T>): Promise<T>;
  /**
   * Runs `fn` once per key and resolves with its result, as JSON makes it; a repeat, here or in another process, resolves with
   * the stored result and runs nothing, for as long as `inboxRetention`. For HTTP handlers with an idempotency key, commands,
   * scheduled jobs.
   *
   * `fn` runs in a transaction of the store: its effects through `tx`, what it publishes through `outbox` and its result
   * commit together. When it rejects nothing is stored, and the call rejects with its very error. While another call runs with
   * the key this one waits, and rejects with `StoreError` `ERR_CLAIM_HELD` (retryable) after `wait`. Rejects with `CodecError`,
   * and stores nothing, when the result is no JSON or larger than `maxBytes`; with `StoreError` when the database fails: if
   * that was at the commit, calling again tells.
   *
   * Starts a relay when none runs in this process.
   *
   * @example
   * const receipt = await bus.once(request.headers["idempotency-key"], async (tx, outbox) => {
   *   await tx.query("insert into orders …");
   *   await outbox.publish(OrderPlaced, order);
   *   return { orderId };
   * }, { scope: "POST /orders" });
   */
  once<T>(key: string, fn: (tx: Tx, outbox: Publisher) => Promise<T> | T, options?: OnceOptions): Promise<T>;
  /**
   * The same for effects outside of the database: the key is claimed while `fn` runs, and the result stored after. When this
   * process dies in between, or `fn` rejects, a repeat runs `fn` again: give the other system the key too. Rejects with
   * `ERR_LEASE_LOST` (retryable) when the claim was lost meanwhile; `signal` says so to `fn`.
   *
   * @example
   * await bus.once(orderId, (signal) => payments.charge(order, { signal, idempotencyKey: orderId }), { by: "lease" });
   */
  once<T>(key: string, fn: (signal: AbortSignal) => Promise<T> | T, options: OnceByLeaseOptions): Promise<T>;
  /**
   * Says how to find out what became of the work that a prepared message of this topic tells of, when its sender has not said:
   * `check` is asked 6 seconds after `prepare`, then every 30 seconds, at most 15 times, by one process at a time of all that
   * have it, those that were restarted since included. Answer from your own data; `"unknown"`, a throw, or no answer within 30
   * seconds means asked again. It may be asked while the work still goes on: answer `"rollback"` only when that can no longer
   * succeed, for then its `commit()` is refused. After the last time the message is parked: a `checkParked` event,
   * `undecided(topic)`. Begins at once. Throws `ConfigurationError` when the topic has a check already.
   *
   * @example
   * bus.checkBack(OrderPlaced, async ({ payload, time }) => {
   *   if (await orders.find(payload.orderId)) return "commit";
   *   return Date.now() - time.getTime() > 60_000 ? "rollback" : "unknown"; // requests end within a minute
   * });
   */
  checkBack<Input, Output>(topic: Topic<Input, Output>, check: Check<Output>): void;
  /**
   * Stores a message that leaves when it is committed, and not before: for work in a database that is not the bus's store.
   * Prepare, do the work, then `commit()` or `rollback()`; if this process dies in between, the topic's check decides, and
   * nothing is lost or sent for nothing. Resolves once it is stored. Needs a check for the topic (`checkBack`); rejects like a
   * publish through an outbox. A delay counts from now.
   *
   * @example
   * const prepared = await bus.prepare(OrderPlaced, order);
   * await orders.insert(order);
   * await prepared.commit();
   */
  prepare<Input, Output>(
    topic: Topic<Input, Output>,
    payload: NoInfer<Input>,
    options?: PublishOptions,
  ): Promise<Prepared>;
  /** Prepared messages of a topic that nobody has decided: to be looked at, asked about again, or decided by a person. */
  undecided<Input, Output>(topic: Topic<Input, Output>): Undecided;
  /**
   * Starts a relay in this process, at once, in the place of the one that the bus started by itself. Any number may run, here
   * and elsewhere; one works at a time, and another takes over within seconds of its end.
   */
  relay(options?: RelayOptions): Relay;
  deadLetters<Input, Output>(
    topic: Topic<Input, Output>,
    options: { readonly group: string },
  ): DeadLetters<Output>;
  /** Connects and runs the start-up checks now instead of on first use. Rejects when that fails within `connectTimeout`. */
  connect(): Promise<void>;
  /** Creates or upgrades the store's tables. Safe to repeat, and from several processes. */
  migrate(): Promise<MigrationReport>;
  /** Makes topics and groups exist. Messages published from then on reach those groups. */
  declare(topology: DeclareOptions): Promise<void>;
  /** What is up and what is not, from memory: no I/O. */
  health(): Health;
  /** What the adapter can do. */
  readonly capabilities: Capabilities;
  /**
   * Drains, then closes: consumers finish what runs (aborted and given back after `timeout`, default the bus's
   * `drainTimeout`), pending publishes get their outcome, the relay lets its lease go, connections end. Twice is fine.
   */
  close(options?: CloseOptions): Promise<void>;
}
