/** The bus: what users hold. It wires producer, consumers, outbox, relay and dead letters to one adapter and one store. */
import type { Capabilities } from "./capabilities.ts";
import type { Consumer } from "./consumer.ts";
import type { AnyMiddleware, ConsumeOptions, Handler, Once } from "./consume.ts";
import type { DeadLetters } from "./dead-letters.ts";
import type { Duration } from "./duration.ts";
import type { Health } from "./health.ts";
import type { Relay, RelayOptions } from "./outbox/relay.ts";
import type { Publisher } from "./publisher.ts";
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
  /** Puts middleware around the handlers of consumers started from now on, outermost first. */
  use(middleware: AnyMiddleware): void;
  /** Publishes inside the caller's own open transaction: the messages leave if and only if it commits. A relay must run. */
  outbox(handle: Handle): Publisher;
  /** Starts a relay in this process, at once. Any number may run, here and elsewhere; one works at a time. */
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
  close(options?: { readonly timeout?: Duration }): Promise<void>;
}
