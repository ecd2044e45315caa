/** The implementation of `Bus`: wires producer, consumers, outbox, relays and dead letters to one adapter and one store. */
import type { Adapter, GroupSpec } from "./adapter.ts";
import type { Bus, DeclareOptions } from "./bus.ts";
import type { Capabilities } from "./capabilities.ts";
import type { Runtime } from "./clock.ts";
import { type Connection, createConnection } from "./connection.ts";
import {
  type AnyMiddleware,
  type CheckedConsumeOptions,
  type ConsumeOptions,
  checkConsumeOptions,
} from "./consume.ts";
import { type Consumer, startConsumer } from "./consumer.ts";
import { type DeadLetters, createDeadLetters } from "./dead-letters.ts";
import { type Duration, toMs } from "./duration.ts";
import type { EnvelopeContext } from "./envelope.ts";
import { ConfigurationError, LifecycleError } from "./errors.ts";
import type { EventListener, Logger } from "./events.ts";
import { type Health, type HealthCheck, check, summarize } from "./health.ts";
import { checkName, createNames } from "./names.ts";
import { type Once, onceByLease, onceInTransaction, unprotected } from "./once.ts";
import { checkFunction, checkInteger, checkKeys } from "./options.ts";
import { createOutbox } from "./outbox/outbox.ts";
import { type Relay, type RelayOptions, startRelay } from "./outbox/relay.ts";
import { type Producer, createProducer, publishAllResult, topicSpec } from "./producer.ts";
import {
  type PublishAllResult,
  type PublishOptions,
  type Publisher,
  type Receipt,
  checkPublishOptions,
} from "./publisher.ts";
import { longestDelayMs } from "./retry/policy.ts";
import type { MigrationReport, Store } from "./store.ts";
import type { Topic } from "./topic.ts";
import type { Work } from "./work.ts";

/** Everything `createBus` has checked. */
export interface BusContext {
  readonly adapter: Adapter;
  readonly store: Store | undefined;
  readonly runtime: Runtime;
  readonly emit: EventListener;
  readonly logger: Logger | undefined;
  readonly prefix: string;
  readonly outboxOnly: boolean;
  readonly envelope: EnvelopeContext;
  readonly connectTimeoutMs: number;
  readonly publishTimeoutMs: number;
  readonly drainTimeoutMs: number;
  readonly inboxRetentionMs: number;
}

export class PostriderBus implements Bus {
  readonly #context: BusContext;
  readonly #connection: Connection;
  readonly #producer: Producer;
  readonly #middleware: AnyMiddleware[] = [];
  readonly #consumers = new Set<Consumer>();
  readonly #relays = new Set<Relay>();
  /** Aborted when nothing is waited for any more. */
  readonly #ended = new AbortController();
  #state: "open" | "closing" | "closed" = "open";
  #closed: Promise<void> | undefined;

  constructor(context: BusContext) {
    const { adapter, store, runtime, emit, prefix } = context;
    this.#context = context;
    this.#connection = createConnection({
      adapter,
      adapterContext: { runtime, emit, prefix, names: createNames(prefix) },
      store,
      storeContext: { runtime, emit },
      runtime,
      emit,
      connectTimeoutMs: context.connectTimeoutMs,
      closing: this.#ended.signal,
    });
    this.#producer = createProducer({
      adapter,
      runtime,
      emit,
      envelope: context.envelope,
      publishTimeoutMs: context.publishTimeoutMs,
      ready: (topic) => this.#connection.readyForTopic(topic),
      closed: this.#ended.signal,
    });
  }

  get capabilities(): Capabilities {
    return this.#context.adapter.capabilities;
  }

  async publish<I, O>(topic: Topic<I, O>, payload: I, options?: PublishOptions): Promise<Receipt> {
    this.#checkOpen();
    return this.#publishDirectly(topic, payload, options);
  }

  publishAll<I, O>(
    topic: Topic<I, O>,
    payloads: readonly I[],
    options?: PublishOptions,
  ): Promise<PublishAllResult[]> {
    return allResults(payloads, (payload) => this.publish(topic, payload, options));
  }

  async consume(topic: unknown, options: unknown, handler: unknown): Promise<Consumer> {
    this.#checkOpen();
    const { adapter, store } = this.#context;
    const middleware = this.#middleware;
    const checked = checkConsumeOptions(topic as Topic, options as ConsumeOptions, handler, {
      adapter,
      store,
      middleware,
    });
    this.#warnOfShortInbox(checked);
    await this.#connection.readyForGroup({ topic: topicSpec(topic as Topic), group: checked.group });
    if (checked.once === "transaction" && this.#relays.size === 0) this.relay();
    const consumer = await startConsumer({
      adapter,
      runtime: this.#context.runtime,
      spec: {
        topic: topicSpec(topic as Topic),
        group: checked.group,
        order: checked.order,
        prefetch: checked.prefetch,
        leaseMs: checked.leaseMs,
        maxRetryDelayMs: longestDelayMs(checked.policy),
      },
      dispatch: this.#dispatchContext(topic as Topic, checked),
      concurrency: checked.concurrency,
      drainTimeoutMs: this.#context.drainTimeoutMs,
      onClosed: (closed) => void this.#consumers.delete(closed),
    });
    this.#consumers.add(consumer);
    if (this.#state !== "open") {
      await consumer.close();
      this.#checkOpen();
    }
    return consumer;
  }

  use(middleware: AnyMiddleware): void {
    checkFunction("use", middleware);
    this.#middleware.push(middleware);
  }

  outbox(handle: unknown): Publisher {
    const store = this.#requireStore("outbox");
    const { envelope } = this.#context;
    return createOutbox(
      { store, envelope, ready: () => this.#connection.connectStore(), onAppended: () => this.#wakeRelays() },
      handle,
    );
  }

  relay(options: RelayOptions = {}): Relay {
    this.#checkOpen();
    const store = this.#requireStore("relay");
    checkKeys("relay", options, ["batch"]);
    const batch = checkInteger("relay batch", options.batch ?? 500, 1, 5_000);
    const { runtime, emit, inboxRetentionMs } = this.#context;
    const context = {
      store,
      runtime,
      emit,
      inboxRetentionMs,
      producer: this.#producer,
      ready: () => this.#connection.connectStore(),
      onClosed: (closed: Relay) => void this.#relays.delete(closed),
    };
    const relay = startRelay(context, { batch });
    this.#relays.add(relay);
    return relay;
  }

  deadLetters<I, O>(topic: Topic<I, O>, options: { readonly group: string }): DeadLetters<O> {
    checkKeys("deadLetters", options, ["group"]);
    checkName("group", options.group);
    const { adapter, runtime, emit } = this.#context;
    const known = topic as Topic;
    const spec: GroupSpec = { topic: topicSpec(known), group: options.group };
    const ready = async (): Promise<void> => {
      this.#checkOpen();
      await this.#connection.readyForGroup(spec);
    };
    const letters: DeadLetters = createDeadLetters({
      adapter,
      runtime,
      emit,
      producer: this.#producer,
      topic: known,
      spec,
      ready,
    });
    return letters as DeadLetters<O>;
  }

  async connect(): Promise<void> {
    this.#checkOpen();
    await this.#connection.connect();
  }

  async migrate(): Promise<MigrationReport> {
    this.#checkOpen();
    return this.#requireStore("migrate").migrate();
  }

  async declare(topology: DeclareOptions): Promise<void> {
    this.#checkOpen();
    checkKeys("declare", topology, ["topics", "groups"]);
    const groups = Object.entries(topology.groups ?? {}).flatMap(([group, topics]) => {
      checkName("group", group);
      return topics.map((topic): GroupSpec => ({ topic: topicSpec(topic), group }));
    });
    for (const topic of topology.topics ?? []) await this.#connection.readyForTopic(topicSpec(topic));
    for (const spec of groups) await this.#connection.readyForGroup(spec);
  }

  health(): Health {
    const { adapter, store } = this.#context;
    const ofAdapter = adapter.health();
    const checks: Record<string, HealthCheck> = {
      adapter: check(this.#connection.connected && ofAdapter.connected, ofAdapter.error, true),
    };
    if (store !== undefined) {
      const ofStore = store.health();
      checks["store"] = check(ofStore.connected, ofStore.error, true);
    }
    for (const relay of this.#relays) {
      const { error } = relay.health();
      checks["relay"] = check(error === undefined, error, false);
    }
    for (const consumer of this.#consumers) {
      const { consuming, error } = consumer.health();
      checks[`consumer ${consumer.topic}--${consumer.group}`] = check(consuming, error, true);
    }
    return summarize(checks, this.#state);
  }

  close(options: { readonly timeout?: Duration } = {}): Promise<void> {
    const { drainTimeoutMs } = this.#context;
    const timeoutMs = options.timeout === undefined ? drainTimeoutMs : toMs(options.timeout, "timeout");
    this.#closed ??= this.#close(timeoutMs);
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#state = "closing";
    const { runtime, adapter, store } = this.#context;
    const cancelDeadline = runtime.setTimer(timeoutMs, () =>
      this.#ended.abort(new LifecycleError("ERR_CLOSED", "the bus was closed")),
    );
    try {
      await Promise.all(Array.from(this.#consumers, (consumer) => consumer.close({ timeout: timeoutMs })));
      await Promise.all(Array.from(this.#relays, (relay) => relay.close()));
      await this.#producer.idle();
    } finally {
      cancelDeadline();
      this.#ended.abort(new LifecycleError("ERR_CLOSED", "the bus was closed"));
      this.#state = "closed";
      await adapter.close();
      await store?.close();
    }
  }

  #checkOpen(): void {
    if (this.#state === "open") return;
    const code = this.#state === "closing" ? "ERR_DRAINING" : "ERR_CLOSED";
    throw new LifecycleError(code, `the bus is ${this.#state}; create a new one`);
  }

  #requireStore(what: string): Store {
    const { store } = this.#context;
    if (store !== undefined) return store;
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${what} needs a store, for example createBus({ store: postgres({ pool }) })`,
    );
  }

  async #publishDirectly(
    topic: Topic,
    payload: unknown,
    options: PublishOptions | undefined,
  ): Promise<Receipt> {
    if (this.#context.outboxOnly) {
      throw new ConfigurationError("ERR_CONFIG", "this bus is outboxOnly: publish through bus.outbox(tx)");
    }
    return this.#producer.publish(topic, payload, checkPublishOptions(options));
  }

  /** What a handler publishes carries on the chain of the message it handles. */
  #publisherFor(work: Work, tx: unknown): Publisher {
    const { id, correlationId = id } = work.message;
    const chained = (options: PublishOptions = {}): PublishOptions => ({
      correlationId,
      causationId: id,
      ...options,
    });
    const publish: Publisher["publish"] =
      tx === undefined
        ? (topic, payload, options) => this.#publishDirectly(topic, payload, chained(options))
        : (topic, payload, options) => this.outbox(tx).publish(topic, payload, chained(options));
    return {
      publish,
      publishAll: (topic, payloads, options) =>
        tx === undefined
          ? allResults(payloads, (payload) => publish(topic, payload, options))
          : this.outbox(tx).publishAll(topic, payloads, chained(options)),
    };
  }

  #dispatchContext(
    topic: Topic,
    checked: CheckedConsumeOptions,
  ): Parameters<typeof startConsumer>[0]["dispatch"] {
    const { adapter, runtime, emit, logger } = this.#context;
    return {
      ...checked,
      adapter,
      runtime,
      emit,
      logger,
      topic,
      once: this.#once(checked),
      publisherFor: (work, tx) => this.#publisherFor(work, tx),
    };
  }

  #once({ once, leaseMs }: CheckedConsumeOptions): Once {
    const { store, runtime } = this.#context;
    if (once === false || store === undefined) return unprotected;
    return once === "transaction" ? onceInTransaction(store) : onceByLease(store, runtime, leaseMs);
  }

  #warnOfShortInbox({ once, policy }: CheckedConsumeOptions): void {
    const { emit, inboxRetentionMs } = this.#context;
    if (once === false || policy.maxAgeMs <= inboxRetentionMs) return;
    const message = `retry.maxAge (${policy.maxAgeMs} ms) is longer than inboxRetention (${inboxRetentionMs} ms): a message retried that late may be handled twice`;
    emit({ type: "warning", code: "INBOX_RETENTION", message });
  }

  #wakeRelays(): void {
    for (const relay of this.#relays) relay.wake();
  }
}

function allResults<T>(
  items: readonly T[],
  publish: (item: T) => Promise<Receipt>,
): Promise<PublishAllResult[]> {
  return Promise.allSettled(items.map(publish)).then((settled) =>
    settled.map((result, i) => publishAllResult(i, result)),
  );
}
