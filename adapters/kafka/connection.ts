/** The adapter's way to its broker: opens clients of each kind, and ends them all. Producers and consumers have their own. */
import type { Admin, LogEntry } from "kafkajs";
import {
  type AdapterContext,
  LifecycleError,
  type MessagingError,
  type Names,
  type Runtime,
  loadPeer,
  retryLoop,
} from "../../src/spi.ts";
import { checkBroker } from "./checks.ts";
import { type Client, type ClientSetup, type KafkaJs, openClient } from "./client.ts";
import { type OpenCluster, openCluster } from "./cluster.ts";
import { isNotYetKnown } from "./errors.ts";
import { calmIdleLoop } from "./idle-loop.ts";
import { collectHeadersAtOnce } from "./record-headers.ts";
import { ControlKeeper } from "./keeper.ts";
import type { CheckedOptions } from "./options.ts";
import { type BrokerSettings, readBrokerSettings } from "./settings.ts";

const closeMs = 2_000;
/** What a broker takes in one batch by default. */
const defaultBatchBytes = 1_048_588;
/** Control calls fail soon: who asked tries again. */
const controlRetry = { retries: 3, maxRetryTime: 400 };
/** A coordinator may be starting, or its topic be in the making. */
const clusterRetry = { retries: 20, maxRetryTime: 300 };
/** Producers and consumers outlast the restart of a broker within one call: that keeps order, and membership of groups. */
const recordRetry = { retries: 60, maxRetryTime: 250 };

export class KafkaConnection {
  readonly options: CheckedOptions;
  #context: AdapterContext | undefined;
  #library: KafkaJs | undefined;
  #keeper: ControlKeeper | undefined;
  #settings: BrokerSettings = {};
  readonly #ended = new AbortController();

  constructor(options: CheckedOptions) {
    this.options = options;
  }

  get context(): AdapterContext {
    return this.#context ?? this.#notConnected();
  }

  get runtime(): Runtime {
    return this.context.runtime;
  }

  get names(): Names {
    return this.context.names;
  }

  get library(): KafkaJs {
    return this.#library ?? this.#notConnected();
  }

  /** The broker's own settings, as far as we are told. */
  get settings(): BrokerSettings {
    return this.#settings;
  }

  /** Most bytes in one batch of records, of topics that have no limit of their own. */
  get maxBatchBytes(): number {
    return this.#settings.maxMessageBytes ?? defaultBatchBytes;
  }

  /** Aborted when the adapter closes. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  get admin(): Admin {
    const control = this.ended.aborted ? undefined : this.#keeper?.control;
    return control?.admin ?? this.#notConnected();
  }

  /** Copies a topic we make gets: as asked for, else 3 where there are so many brokers; -1 leaves it to the broker. */
  get replicationFactor(): number {
    const brokers = this.#keeper?.control?.brokers?.length;
    return this.options.replicationFactor ?? (brokers === undefined ? -1 : Math.max(1, Math.min(3, brokers)));
  }

  async connect(context: AdapterContext): Promise<void> {
    this.#context = context;
    if (this.ended.aborted) this.#notConnected();
    this.#library ??= (await loadPeer("kafkajs", () => import("kafkajs"))).default;
    calmIdleLoop(context.runtime);
    collectHeadersAtOnce();
    const keeper = new ControlKeeper(this.#setup(controlRetry), context, this.ended);
    await keeper.start();
    this.#keeper = keeper;
    this.#settings = await readBrokerSettings(this, keeper.control?.brokers);
    checkBroker(this.options, this.#settings, this.warn);
  }

  health(): { readonly connected: boolean; readonly error?: MessagingError | undefined } {
    return this.#keeper?.health() ?? { connected: false };
  }

  /** A client for records; who opens it kills it. */
  openClient(): Client {
    return openClient(this.#setup(recordRetry));
  }

  /** Runs `use` with a connection of its own that knows the leaders of `topics`. */
  async withCluster<T>(
    topics: readonly string[],
    use: (cluster: OpenCluster["cluster"]) => Promise<T>,
  ): Promise<T> {
    const opened = await this.openCluster(topics);
    try {
      return await use(opened.cluster);
    } finally {
      await opened.close();
    }
  }

  async openCluster(topics: readonly string[]): Promise<OpenCluster> {
    const client = openClient(this.#setup(clusterRetry));
    const end = (): void => {
      this.ended.removeEventListener("abort", end);
      client.kill();
    };
    this.ended.addEventListener("abort", end, { once: true });
    try {
      const opened = await this.untilKnown(() => openCluster(client, topics));
      const close = (): Promise<void> => this.withinMs(closeMs, opened.close()).then(end, end);
      return { cluster: opened.cluster, close };
    } catch (error) {
      end();
      throw error;
    }
  }

  readonly warn = (code: string, message: string): void => {
    this.context.emit({ type: "warning", code, message });
  };

  /** What was made a moment ago may not be known everywhere yet: tries for a while. */
  untilKnown<T>(act: () => Promise<T>): Promise<T> {
    return retryLoop(
      (ms) => this.runtime.sleep(ms, this.ended),
      act,
      (error, attempt) => (isNotYetKnown(error) && attempt <= 30 ? 20 + attempt * 10 : undefined),
    );
  }

  /** `work`, or nothing after `ms`: for ends that may hang. Rejects when `work` does. */
  async withinMs(ms: number, work: Promise<unknown>): Promise<void> {
    const late = Promise.withResolvers<void>();
    const cancel = this.runtime.setTimer(ms, () => late.resolve());
    try {
      await Promise.race([work, late.promise]);
    } finally {
      cancel();
    }
  }

  async close(): Promise<void> {
    if (this.ended.aborted) return;
    this.#ended.abort(new LifecycleError("ERR_CLOSED", "the kafka adapter is closed"));
    if (this.#keeper !== undefined) await this.withinMs(closeMs, this.#keeper.close());
  }

  #setup(retry: ClientSetup["retry"]): ClientSetup {
    return { library: this.library, options: this.options, retry, onLog: (entry) => this.#log(entry) };
  }

  #notConnected(): never {
    const closed = this.ended.aborted;
    const what = `the kafka adapter is ${closed ? "closed" : "not connected"}`;
    throw new LifecycleError(closed ? "ERR_CLOSED" : "ERR_NOT_STARTED", what);
  }

  /**
   * Of what the client logs, connections, retries and failed requests are told by our own events and results. That a group's
   * place was gone and it begins anew, nobody else would tell.
   */
  #log({ namespace, log }: LogEntry): void {
    if (namespace !== "ConsumerGroup" || !log.message.startsWith("Offset out of range")) return;
    const { groupId, topic, partition } = log as LogEntry["log"] &
      Record<"groupId" | "topic" | "partition", unknown>;
    this.warn(
      `KAFKA_OFFSET_RESET:${String(topic)}`,
      `the place of group "${String(groupId)}" in "${String(topic)}" partition ${String(partition)} is not in the log any more (retention, or the topic was made anew): it goes on at the first message that is kept`,
    );
  }
}
