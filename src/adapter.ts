/**
 * The adapter port: mechanism only. An adapter connects, declares, publishes with confirmation, delivers and
 * settles. It never retries a handler, dead-letters or de-duplicates on its own: one pure function in the core
 * decides, `settle.ts` executes. Invariants every adapter keeps, checked by the conformance suite:
 *
 * 1. The source is acknowledged only after the deferred copy or the dead letter is durably confirmed.
 * 2. Settling is bound to the epoch of the delivery (AMQP channel, Kafka generation, lease); a stale settle is a no-op.
 * 3. A deferred copy returns to that group only, with id, key, headers and body bytes kept.
 * 4. Attempts are carried by the broker or the message, never only in process memory.
 * 5. Dead letters keep the original bytes.
 * 6. After any disconnect, restart, rebalance, deleted group or redeclared topology it consumes again by itself,
 *    or its health turns not-ready.
 */
import type { Capabilities, Durability } from "./capabilities.ts";
import type { Runtime } from "./clock.ts";
import type { MessagingError } from "./errors.ts";
import type { AdapterEvent } from "./events.ts";
import type { HeaderPatch } from "./headers.ts";
import type { WireMessage } from "./message.ts";
import type { Names } from "./names.ts";
import type { Store } from "./store.ts";

/** What a bus gives its adapter when it connects. */
export interface AdapterContext {
  readonly runtime: Runtime;
  readonly names: Names;
  /** `createBus({ prefix })`, for what `names` does not cover. */
  readonly prefix: string;
  /** Reports connection changes and warnings; never throws. */
  emit(event: AdapterEvent): void;
}

/** A topic as the broker needs to know it. */
export interface TopicSpec {
  readonly name: string;
  readonly partitions: number;
  /** Messages may have an ordering key. */
  readonly keyed: boolean;
}

export interface GroupSpec {
  readonly topic: TopicSpec;
  readonly group: string;
}

/** What should exist on the broker. */
export interface Topology {
  readonly topics: readonly TopicSpec[];
  readonly groups: readonly GroupSpec[];
}

/** Where a message goes: to all groups of a topic, to one of them, or to that group's dead letters. */
export interface Destination {
  readonly topic: TopicSpec;
  readonly group?: string | undefined;
  readonly dead?: boolean | undefined;
}

export interface OutgoingMessage {
  readonly destination: Destination;
  readonly message: WireMessage;
  readonly durability: Durability;
  /** `false`: a topic that has no group and does not retain drops the message instead of rejecting it. */
  readonly requireRoute: boolean;
}

/**
 * Outcome of publishing one message. `rejected` is definite: the broker does not have it (`error.retryable` says
 * whether trying again may help). `unknown`: it may have it; the core tries again with the same id.
 */
export type PublishResult =
  | { readonly status: "accepted"; readonly durability: Durability; readonly duplicate?: boolean }
  | { readonly status: "rejected"; readonly error: MessagingError }
  | { readonly status: "unknown"; readonly error: MessagingError };

/** How the core should feed `publish`. */
export interface PublishLimits {
  /** Most messages in one call. */
  readonly maxBatch: number;
  /** Most calls under way at once. 1 keeps the order of calls over a connection loss. */
  readonly maxInFlight: number;
}

/** One hand-over of a message by the broker, before anything is decoded. */
export interface RawDelivery {
  readonly topic: string;
  readonly group: string;
  readonly message: WireMessage;
  /** Where it was read, as the broker counts; stable for one message on one queue. Identifies foreign messages. */
  readonly position: string;
  /** Earlier hand-overs of this copy that the broker knows of (crashes, lost connections). 0 on the first, and where it cannot count. */
  readonly redeliveries: number;
  /** The adapter's own: what settling needs, the epoch included. */
  readonly token: unknown;
}

/** `stale`: the delivery is no longer ours, nothing was changed. `failed`: not settled, or not known; may be tried again. */
export type SettleResult =
  | { readonly status: "done" }
  | { readonly status: "stale" }
  | { readonly status: "failed"; readonly error: MessagingError };

/** Where an adapter hands its deliveries to. Neither call throws. */
export interface DeliverySink {
  deliver(deliveries: readonly RawDelivery[]): void;
  /** These are no longer ours (channel closed, partition revoked, lease lost): settling them will be stale. */
  lost(deliveries: readonly RawDelivery[]): void;
}

export interface SubscribeSpec extends GroupSpec {
  /** `"key"`: deliveries of one key come in order, and to one subscription at a time. */
  readonly order: "none" | "key";
  /** Most deliveries handed over and not yet settled or lost. The only back-pressure there is. */
  readonly prefetch: number;
  /** How long a delivery stays ours without `extend`. */
  readonly leaseMs: number;
  /** Longest delay the retry policy will ask of `defer`; longer ones must still work. */
  readonly maxRetryDelayMs: number;
}

/** A running subscription. All methods resolve; failures are in their results. */
export interface Subscription {
  /** Settles as handled. */
  ack(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]>;
  /**
   * Hands the message over again, to this group only, not before `delayMs` have passed, with `patch` applied to its
   * headers and everything else unchanged. Held by the broker: neither slot nor process is needed meanwhile.
   */
  defer(delivery: RawDelivery, delayMs: number, patch: HeaderPatch): Promise<SettleResult>;
  /** Moves the message to the group's dead letters, with `patch` applied to its headers. One entry per message id. */
  deadLetter(delivery: RawDelivery, patch: HeaderPatch): Promise<SettleResult>;
  /** Gives back, to be handed over again soon; where the broker lets it, not counted as a hand-over. */
  release(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]>;
  /** Keeps the deliveries ours for another `leaseMs`. The core calls it at a third of that. */
  extend(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]>;
  /** Stops and starts handing over; what is handed over stays settleable. */
  pause(): void;
  resume(): void;
  /** Stops handing over for good. Resolves when `deliver` will not be called again; settling still works. */
  stop(): Promise<void>;
  /** Flushes what was settled, gives back what was not, leaves the group. */
  close(): Promise<void>;
  /** Whether it is receiving, or would be if there were messages. Cached, no I/O. */
  health(): SubscriptionHealth;
}

export interface SubscriptionHealth {
  /** `false` while the adapter knows that it does not receive, and mends that itself. */
  readonly consuming: boolean;
  readonly error?: MessagingError | undefined;
  /**
   * For how long nothing has shown that messages would arrive: no message, no "nothing there" from the broker, no reason not to
   * ask. Below ten seconds in any health, with or without messages; 0 while it has no need to (window full, paused, standing
   * by). When it says `consuming` and is silent for long, the core takes it for dead and subscribes anew.
   */
  readonly silentMs: number;
}

/** A dead letter as it is stored. */
export interface StoredDeadLetter {
  readonly message: WireMessage;
  /** Stable within one cursor; identifies a foreign message that has no id. */
  readonly position: string;
  readonly token: unknown;
}

/** Reads the dead letters of one group, oldest first, one entry per message id. */
export interface DeadLetterCursor {
  /** The next at most `limit` letters; empty at the end of what was there when the cursor was opened. */
  read(limit: number): Promise<readonly StoredDeadLetter[]>;
  /** Takes letters out for good. Rejects when that is not confirmed. */
  remove(letters: readonly StoredDeadLetter[]): Promise<void>;
  /** Leaves the letters that were not removed as they were. */
  close(): Promise<void>;
}

export interface Adapter {
  /** `"rabbitmq"`, `"kafka"`, …; also the value of `messaging.system`. */
  readonly name: string;
  readonly capabilities: Capabilities;
  readonly publishLimits: PublishLimits;
  /** The store that comes with it, used when the bus is given none (the embedded default). */
  readonly store?: Store | undefined;
  /**
   * Connects and checks the broker's own settings. Rejects with `TransportError` `ERR_CONNECT`, `ERR_AUTH` or
   * `ERR_TLS` when it cannot; the core may then call it again. Once it has resolved, losses are mended by the adapter itself.
   */
  connect(context: AdapterContext): Promise<void>;
  /**
   * Makes what is missing; never changes or removes what is there. A topic that has another number of partitions is taken as
   * it is; what cannot work (a queue of another type) is rejected with `ERR_TOPOLOGY`. Safe to repeat.
   */
  declare(topology: Topology): Promise<void>;
  /** One result per message, in order. Never rejects. Declared topology is assumed. */
  publish(batch: readonly OutgoingMessage[]): Promise<readonly PublishResult[]>;
  /**
   * Takes back what was published to the topic with this id and a delay, if that has not passed: no group gets it, and its id
   * and idempotency key may be used again. `false`: there is none, or it is too late. Declared topology is assumed. Rejects
   * when it is not known. Only with `capabilities.cancel`.
   */
  cancel?(topic: TopicSpec, id: string): Promise<boolean>;
  /** Starts handing over. Resolves when messages published from now on are sure to arrive. Rejects like `connect` and `declare`. */
  subscribe(spec: SubscribeSpec, sink: DeliverySink): Promise<Subscription>;
  openDeadLetters(spec: GroupSpec): Promise<DeadLetterCursor>;
  /** Whether it can reach its broker now. Cached, no I/O. */
  health(): { readonly connected: boolean; readonly error?: MessagingError | undefined };
  /** Ends everything, subscriptions included. Twice is fine. */
  close(): Promise<void>;
}
