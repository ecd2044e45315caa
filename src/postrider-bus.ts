/** The implementation of `Bus`: wires producer, consumers, outbox, relays and dead letters to one adapter and one store. */
import type { Adapter, GroupSpec } from "./adapter.ts";
import type { Bus, DeclareOptions } from "./bus.ts";
import { cancelDelayed } from "./cancel.ts";
import type { Capabilities } from "./capabilities.ts";
import type { Check } from "./check-back.ts";
import type { Runtime } from "./clock.ts";
import { type Connection, createConnection } from "./connection.ts";
import {
  type AnyMiddleware,
  type CheckedConsumeOptions,
  type ConsumeOptions,
  checkConsumeOptions,
} from "./consume.ts";
import { type CloseOptions, type Consumer, checkCloseOptions, startConsumer } from "./consumer.ts";
import { type DeadLetters, createDeadLetters } from "./dead-letters.ts";
import type { EnvelopeContext } from "./envelope.ts";
import { ConfigurationError, LifecycleError } from "./errors.ts";
import type { EventListener, Logger } from "./events.ts";
import { type Health, type HealthCheck, check, checkLanes, collectChecks, summarize } from "./health.ts";
import { show } from "./inspect.ts";
import { checkName, createNames } from "./names.ts";
import { type Once, onceByLease, onceInTransaction, unprotected } from "./once.ts";
import { checkFunction, checkKeys } from "./options.ts";
import { createOutbox, entryOf } from "./outbox/outbox.ts";
import type { RelayOptions } from "./outbox/relay-options.ts";
import type { Relay } from "./outbox/relay.ts";
import { type Relays, createRelays } from "./outbox/relays.ts";
import { type Prepared, type Preparing, type Undecided, createPreparing } from "./prepared.ts";
import { type Producer, createProducer, topicSpec } from "./producer.ts";
import type { PublishAllOptions, PublishAllResult, PublishOptions, Publisher, Receipt } from "./publisher.ts";
import { directPublisher, handlerPublisher } from "./publishers.ts";
import { longestDelayMs } from "./retry/policy.ts";
import { type OnceByLeaseOptions, type OnceOptions, type RunOnceContext, runOnce } from "./run-once.ts";
import type { MigrationReport, Store } from "./store.ts";
import { type Topic, checkTopic } from "./topic.ts";
import { resolvesWithin } from "./within.ts";

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
  readonly maxPending: number;
  readonly drainTimeoutMs: number;
  readonly inboxRetentionMs: number;
}

/** How long a relay may take to let its lease go, even when closing has no time left. */
const surrenderMs = 500;

export class PostriderBus implements Bus {
  readonly #context: BusContext;
  readonly #connection: Connection;
  readonly #producer: Producer;
  readonly #middleware: AnyMiddleware[] = [];
  readonly #consumers = new Set<Consumer>();
  /** Consumers that `close` must wait for before it can close them. */
  readonly #starting = new Set<Promise<Consumer>>();
  readonly #direct: Publisher;
  /** `undefined`: there is no store. */
  readonly #relays: Relays | undefined;
  readonly #wake = (): void => this.#relays?.wake();
  #preparing: Preparing | undefined;
  /** Aborted when nothing is waited for any more. */
  readonly #ended = new AbortController();
  readonly #whenEnded = whenAborted(this.#ended.signal);
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
      maxPending: context.maxPending,
      ready: (topic) => this.#connection.readyForTopic(topic),
      closed: this.#ended.signal,
    });
    this.#direct = directPublisher(this.#producer, context.outboxOnly);
    this.#relays =
      store &&
      createRelays({
        store,
        runtime,
        emit,
        inboxRetentionMs: context.inboxRetentionMs,
        producer: this.#producer,
        ready: () => this.#connection.connectStore(),
      });
  }

  get capabilities(): Capabilities {
    return this.#context.adapter.capabilities;
  }

  async publish<I, O>(topic: Topic<I, O>, payload: I, options?: PublishOptions): Promise<Receipt> {
    this.#checkOpen();
    return this.#direct.publish(topic, payload, options);
  }

  async publishAll<I, O>(
    topic: Topic<I, O>,
    payloads: readonly I[],
    options?: PublishAllOptions,
  ): Promise<readonly PublishAllResult[]> {
    this.#checkOpen();
    return this.#direct.publishAll(topic, payloads, options);
  }

  async consume(topic: unknown, options: unknown, handler: unknown): Promise<Consumer> {
    this.#checkOpen();
    checkTopic("consume", topic);
    const { adapter, store } = this.#context;
    const middleware = this.#middleware;
    const bus = { adapter, store, middleware };
    const checked = checkConsumeOptions(topic, options as ConsumeOptions, handler, bus);
    this.#warnOfShortInbox(checked);
    const starting = this.#startConsumer(topic, checked);
    this.#starting.add(starting);
    try {
      return await starting;
    } finally {
      this.#starting.delete(starting);
    }
  }

  async cancel(topic: unknown, id: string): Promise<boolean> {
    this.#checkOpen();
    return cancelDelayed(this.#context.adapter, (spec) => this.#connection.readyForTopic(spec), topic, id);
  }

  use(middleware: AnyMiddleware): void {
    checkFunction("use", middleware);
    this.#middleware.push(middleware);
  }

  outbox(handle: unknown): Publisher {
    const store = this.#requireStore("outbox");
    const { adapter, envelope } = this.#context;
    const ready = async (): Promise<void> => {
      // While closing, handlers that still run may write; their transactions end before the store is closed.
      if (this.#state === "closed") this.#checkOpen();
      await this.#connection.connectStore();
    };
    return createOutbox({ store, adapter, envelope, ready, onAppended: this.#wake }, handle);
  }

  async transaction<T>(fn: (tx: unknown, outbox: Publisher) => Promise<T>): Promise<T> {
    this.#checkOpen();
    const store = this.#requireStore("transaction");
    await this.#connection.connectStore();
    const result = await store.transaction((tx) => fn(tx, this.outbox(tx)));
    this.#wake();
    return result;
  }

  async once<T>(
    key: string,
    fn: (...given: never[]) => Promise<T> | T,
    options: OnceOptions | OnceByLeaseOptions = {},
  ): Promise<T> {
    this.#checkOpen();
    const store = this.#requireStore("once");
    const result = await runOnce(this.#onceContext(store), key, fn, options);
    this.#wake();
    return result as T;
  }

  checkBack(topic: unknown, check: unknown): void {
    this.#checkOpen();
    this.#prepares("checkBack").checkBack(topic as Topic, check as Check);
  }

  async prepare<I, O>(topic: Topic<I, O>, payload: I, options?: PublishOptions): Promise<Prepared> {
    this.#checkOpen();
    return this.#prepares("prepare").prepare(topic, payload, options);
  }

  undecided(topic: unknown): Undecided {
    checkTopic("undecided", topic);
    return this.#prepares("undecided").undecided(topic);
  }

  relay(options: RelayOptions = {}): Relay {
    this.#checkOpen();
    if (this.#relays === undefined) throw storeNeeded("relay");
    return this.#relays.start(options);
  }

  deadLetters<I, O>(topic: Topic<I, O>, options: { readonly group: string }): DeadLetters<O> {
    checkTopic("deadLetters", topic);
    checkKeys("deadLetters", options, ["group"]);
    checkName("group", options.group);
    const { adapter, runtime, emit } = this.#context;
    const spec: GroupSpec = { topic: topicSpec(topic), group: options.group };
    const ready = async (): Promise<void> => {
      this.#checkOpen();
      await this.#connection.readyForGroup(spec);
    };
    const letters: DeadLetters = createDeadLetters({
      adapter,
      runtime,
      emit,
      producer: this.#producer,
      topic,
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
    const store = this.#requireStore("migrate");
    // Such a store needs the runtime that only `connect` gives it; others connect only to tables that are there.
    if (store.migratesItself) await this.#connection.connectStore();
    return store.migrate();
  }

  async declare(topology: DeclareOptions): Promise<void> {
    this.#checkOpen();
    checkKeys("declare", topology, ["topics", "groups"]);
    const { topics = [], groups = {} } = topology;
    const specs = checkTopics("declare topics", topics).map(topicSpec);
    const groupSpecs = Object.entries(groups).flatMap(([group, theirs]) => {
      checkName("group", group);
      return checkTopics(`declare groups.${group}`, theirs).map((topic): GroupSpec => ({
        topic: topicSpec(topic),
        group,
      }));
    });
    for (const spec of specs) await this.#connection.readyForTopic(spec);
    for (const spec of groupSpecs) await this.#connection.readyForGroup(spec);
  }

  health(): Health {
    return summarize(collectChecks(this.#checks()), this.#state);
  }

  async close(options: CloseOptions = {}): Promise<void> {
    const timeoutMs = checkCloseOptions(options) ?? this.#context.drainTimeoutMs;
    this.#closed ??= this.#close(timeoutMs);
    await this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  *#checks(): Iterable<readonly [string, HealthCheck]> {
    const { adapter, store } = this.#context;
    const ofAdapter = adapter.health();
    const connected = this.#connection.connected && ofAdapter.connected;
    yield ["adapter", check(connected, ofAdapter.error, true)];
    if (store !== undefined) {
      const ofStore = store.health();
      yield ["store", check(ofStore.connected, ofStore.error, true)];
    }
    for (const relay of this.#relays?.all() ?? []) {
      const { error } = relay.health();
      yield ["relay", check(error === undefined, error, false)];
    }
    for (const consumer of this.#consumers) {
      const { consuming, error, blockedBy } = consumer.health();
      const name = `${consumer.topic}--${consumer.group}`;
      yield [`consumer ${name}`, check(consuming, error, true)];
      if (blockedBy !== undefined) yield [`lanes ${name}`, checkLanes(blockedBy)];
    }
  }

  /** Every step is taken whatever becomes of the one before; what failed is said at the end. */
  async #close(timeoutMs: number): Promise<void> {
    this.#state = "closing";
    const { runtime, adapter, store } = this.#context;
    const reason = new LifecycleError("ERR_CLOSED", "the bus was closed");
    const cancelDeadline = runtime.setTimer(timeoutMs, () => this.#ended.abort(reason));
    const failures: unknown[] = [];
    const all = async (steps: Iterable<Promise<unknown>>): Promise<void> => {
      for (const one of await Promise.allSettled(steps))
        if (one.status === "rejected") failures.push(one.reason);
    };
    await Promise.race([Promise.allSettled(this.#starting), this.#whenEnded]);
    await all(Array.from(this.#consumers, (consumer) => consumer.close({ timeout: timeoutMs })));
    if (this.#preparing !== undefined) await Promise.race([all([this.#preparing.close()]), this.#whenEnded]);
    // A relay whose database does not answer is not waited for; but a lease that is not let go stops all others until it runs out.
    const relaysClosed = all((this.#relays?.all() ?? []).map((relay) => relay.close()));
    await Promise.race([relaysClosed, this.#whenEnded]);
    await resolvesWithin(runtime, surrenderMs, relaysClosed);
    await Promise.race([this.#producer.idle(), this.#whenEnded]);
    cancelDeadline();
    this.#ended.abort(reason);
    this.#state = "closed";
    await all([adapter.close()]);
    if (store !== undefined) await all([store.close()]);
    if (failures.length === 1) throw failures[0];
    if (failures.length > 1) throw new AggregateError(failures, "closing the bus failed in several places");
  }

  async #startConsumer(topic: Topic, checked: CheckedConsumeOptions): Promise<Consumer> {
    const { adapter, runtime, drainTimeoutMs } = this.#context;
    await this.#connection.readyForGroup({ topic: topicSpec(topic), group: checked.group });
    this.#checkOpen();
    // Dead letters of "transaction" leave through the outbox, and somebody must purge the inbox.
    if (checked.once !== false) this.#relays?.ensure();
    const consumer = await startConsumer({
      adapter,
      runtime,
      spec: {
        topic: topicSpec(topic),
        group: checked.group,
        order: checked.order,
        prefetch: checked.prefetch,
        leaseMs: checked.leaseMs,
        maxRetryDelayMs: longestDelayMs(checked.policy),
      },
      dispatch: this.#dispatchContext(topic, checked),
      concurrency: checked.concurrency,
      drainTimeoutMs,
      onClosed: (closed) => void this.#consumers.delete(closed),
    });
    this.#consumers.add(consumer);
    if (this.#state !== "open") {
      await consumer.close({ timeout: 0 });
      this.#checkOpen();
    }
    return consumer;
  }

  #checkOpen(): void {
    if (this.#state === "open") return;
    const code = this.#state === "closing" ? "ERR_DRAINING" : "ERR_CLOSED";
    throw new LifecycleError(code, `the bus is ${this.#state}; create a new one`);
  }

  #onceContext(store: Store): RunOnceContext {
    const { runtime, envelope } = this.#context;
    return {
      store,
      runtime,
      maxBytes: envelope.maxBytes,
      outbox: (tx) => this.outbox(tx),
      ready: async () => {
        await this.#connection.connectStore();
        // Somebody must purge the inbox, and send what is published.
        if (this.#state === "open") this.#relays?.ensure();
      },
    };
  }

  #prepares(what: string): Preparing {
    const { adapter, envelope, emit } = this.#context;
    this.#preparing ??= createPreparing({
      ...this.#onceContext(this.#requireStore(what)),
      emit,
      entryOf: (topic, payload, options) => entryOf({ adapter, envelope }, topic, payload, options),
      onCommitted: this.#wake,
    });
    return this.#preparing;
  }

  #requireStore(what: string): Store {
    const { store } = this.#context;
    if (store === undefined) throw storeNeeded(what);
    return store;
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
      publisherFor: (work, tx) => handlerPublisher(work, tx === undefined ? this.#direct : this.outbox(tx)),
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
}

function storeNeeded(what: string): ConfigurationError {
  return new ConfigurationError(
    "ERR_CONFIG",
    `${what} needs a store, for example createBus({ store: postgres({ pool }) })`,
  );
}

function checkTopics(where: string, topics: unknown): readonly Topic[] {
  if (!Array.isArray(topics)) {
    throw new ConfigurationError("ERR_CONFIG", `${where} must be an array of topics, got ${show(topics)}`);
  }
  for (const topic of topics) checkTopic(where, topic);
  return topics as readonly Topic[];
}

function whenAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
