/**
 * One consumer of the client's, from its making to its end. The client's own restarts are turned off: some of its ends are
 * silent and some for good (kafkajs#660, #1163, #1441), and this way all of them are told, and replaced, the same way.
 */
import type { Cluster, Consumer, ConsumerGroupJoinEvent, EachBatchPayload } from "kafkajs";
import { type Cancel, TransportError } from "../../src/spi.ts";
import { createAssigner } from "./assigner.ts";
import type { Client } from "./client.ts";
import type { Partitions } from "./cluster.ts";
import type { TopicCommit } from "./commits.ts";
import type { KafkaConnection } from "./connection.ts";
import { missingTopics } from "./errors.ts";

export interface SessionSpec {
  readonly groupId: string;
  readonly sessionMs: number;
  /** Most bytes of one partition in one fetch. */
  readonly partitionBytes: () => number;
  /** Partitions of a topic, as far as known. */
  partitionsOf(topic: string): number;
  /** Which of its topics are not there any more. */
  findMissing(): Promise<ReadonlySet<string>>;
  /** What it has now. */
  owned(): Partitions;
  /** The group is about to change hands; resolves when it may. */
  beforeJoin(): Promise<void>;
  /** It has joined, the first time or again. */
  onJoined(joined: ConsumerGroupJoinEvent["payload"]): void;
  /** Records of one partition it has. Nothing more is fetched until it resolves. Must not reject. */
  onBatch(payload: EachBatchPayload): Promise<void>;
}

/** Fetches return after this long with nothing: also how long a resume and an end may take. */
const fetchWaitMs = 250;
const fetchBytes = 8 * 1_048_576;
const heartbeatMs = 500;
/** How long the group waits for its members when it changes hands. */
const rebalanceMs = 30_000;
/** How soon added partitions are seen. */
const metadataMaxAgeMs = 10_000;
const watchMs = 1_000;
/** Without a sign of life for so long it is looked whether its topics are still there: the client tries on and on. */
const lookMs = 2_500;
/** For so long, and it is over; while it joins, longer. */
const silentMs = 30_000;
const joiningMs = 2 * rebalanceMs;
/** An end is announced, and only then explained. */
const explainMs = 1_000;
const endMs = 2_000;
/** Partitions handled at once: handling is only taking over. */
const concurrency = 16;

export class Session {
  /** Rejects when it is over: crashed, stopped by itself, or silent for too long. */
  readonly over: Promise<never>;
  readonly cluster: Cluster;
  /** Finds coordinators without being held up, unlike the cluster itself. */
  readonly coordinators: Pick<Cluster, "findGroupCoordinator">;
  readonly #connection: KafkaConnection;
  readonly #spec: SessionSpec;
  readonly #client: Client;
  readonly #consumer: Consumer;
  readonly #giveUp: (error: unknown) => void;
  #commit: EachBatchPayload["commitOffsetsIfNecessary"] | undefined;
  #cancelWatch: Cancel = () => undefined;
  /** When each broker last answered a fetch. */
  readonly #fetched = new Map<string, number>();
  #joinedAt: number;
  #joining = true;
  #ended = false;

  constructor(connection: KafkaConnection, spec: SessionSpec) {
    this.#connection = connection;
    this.#spec = spec;
    this.#client = connection.openClient();
    this.#joinedAt = connection.runtime.monotonic();
    const { consumer, cluster } = this.#create();
    this.#consumer = consumer;
    this.cluster = cluster;
    this.coordinators = this.#holdJoins(cluster);
    const over = Promise.withResolvers<never>();
    over.promise.catch(() => undefined);
    this.over = over.promise;
    this.#giveUp = (error) => {
      this.#cancelWatch();
      over.reject(error);
    };
    this.#listen();
    this.#watch();
  }

  /** Milliseconds since the last sign of life: an answer to a fetch, of the broker that has been silent for longest. */
  get silence(): number {
    const now = this.#connection.runtime.monotonic();
    const cluster = this.cluster as Cluster & { getNodeIds(): readonly unknown[] };
    return longestSilence(cluster.getNodeIds().map(String), this.#fetched, this.#joinedAt, now);
  }

  /** Resolves when it has joined, or when it has crashed: then `over` rejects. */
  async join(topics: readonly string[]): Promise<void> {
    await this.#consumer.connect();
    await this.#connection.untilKnown(() =>
      this.#consumer.subscribe({ topics: [...topics], fromBeginning: true }),
    );
    await this.#consumer.run({
      autoCommit: false,
      partitionsConsumedConcurrently: concurrency,
      eachBatch: async (payload) => {
        if (this.#ended) return;
        this.#commit = (offsets) => payload.commitOffsetsIfNecessary(offsets);
        await this.#spec.onBatch(payload);
      },
    });
  }

  /**
   * Commits once, in the generation the member is in now. Not by the consumer's own method: that one retries, and a
   * retry could fall into a generation in which the partition belongs to somebody else.
   */
  async commit(topics: readonly TopicCommit[]): Promise<void> {
    if (this.#commit === undefined || this.#ended)
      throw new TransportError("ERR_CONNECTION_LOST", "the consumer is not in its group");
    await this.#commit({ topics: [...topics] });
  }

  pause(topic: string, partition: number): void {
    this.#tell(() => this.#consumer.pause([{ topic, partitions: [partition] }]));
  }

  resume(topic: string, partition: number): void {
    this.#tell(() => this.#consumer.resume([{ topic, partitions: [partition] }]));
  }

  seek(topic: string, partition: number, offset: number): void {
    this.#tell(() => this.#consumer.seek({ topic, partition, offset: String(offset) }));
  }

  /** The client throws when its consumer is over; that is told by `over`. */
  #tell(act: () => void): void {
    if (this.#ended) return;
    try {
      act();
    } catch {
      // A consumer that is over fetches nothing in any case.
    }
  }

  /** Leaves the group, so that nobody waits for it, and disconnects. Bounded; twice is fine. */
  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    this.#giveUp(new TransportError("ERR_CONNECTION_LOST", "the consumer was ended"));
    // An end that hangs (kafkajs#571, #967) is cut short, so one that fails changes nothing either.
    await this.#connection.withinMs(
      endMs,
      this.#consumer.disconnect().catch(() => undefined),
    );
    this.#client.kill();
  }

  #create(): { readonly consumer: Consumer; readonly cluster: Cluster } {
    const { groupId, sessionMs, partitionBytes } = this.#spec;
    let cluster: Cluster | undefined;
    const assigner = createAssigner(this.#connection.library.AssignerProtocol, {
      owned: () => this.#spec.owned(),
      partitionsOf: (topic) => this.#spec.partitionsOf(topic),
      onCluster: (given) => (cluster = given),
    });
    const consumer = this.#client.kafka.consumer({
      groupId,
      partitionAssigners: [assigner],
      sessionTimeout: sessionMs,
      rebalanceTimeout: rebalanceMs,
      heartbeatInterval: Math.min(heartbeatMs, Math.floor(sessionMs / 4)),
      maxWaitTimeInMs: fetchWaitMs,
      maxBytesPerPartition: partitionBytes(),
      maxBytes: fetchBytes,
      metadataMaxAge: metadataMaxAgeMs,
      allowAutoTopicCreation: false,
      retry: { ...this.#client.retry, restartOnFailure: () => Promise.resolve(false) },
    });
    if (cluster === undefined) throw new Error("kafkajs has changed: an assigner is given no cluster");
    return { consumer, cluster };
  }

  /**
   * The client has no way to finish work before a group changes hands. But on its way there it asks for the coordinator, and
   * waits for the answer: that is where it is held up.
   */
  #holdJoins(cluster: Cluster): Pick<Cluster, "findGroupCoordinator"> {
    const findGroupCoordinator = cluster.findGroupCoordinator.bind(cluster);
    cluster.findGroupCoordinator = async (group) => {
      this.#joining = true;
      if (!this.#ended) await this.#spec.beforeJoin();
      return findGroupCoordinator(group);
    };
    return { findGroupCoordinator };
  }

  #listen(): void {
    const { events } = this.#consumer;
    const { runtime } = this.#connection;
    this.#consumer.on(events.GROUP_JOIN, ({ payload }) => {
      this.#joinedAt = runtime.monotonic();
      this.#joining = false;
      if (!this.#ended) this.#spec.onJoined(payload);
    });
    // Not heartbeats: those of one broker's fetches go on while another's hang, and its partitions stand still.
    this.#consumer.on(events.FETCH, ({ payload }) => {
      this.#fetched.set(String(payload.nodeId), runtime.monotonic());
    });
    this.#consumer.on(events.CRASH, ({ payload }) => this.#giveUp(payload.error));
    this.#consumer.on(events.STOP, () => {
      this.#cancelWatch();
      this.#cancelWatch = runtime.setTimer(explainMs, () =>
        this.#giveUp(new Error("the consumer stopped by itself")),
      );
    });
  }

  #watch(): void {
    const { runtime } = this.#connection;
    const { silence } = this;
    if (silence > (this.#joining ? joiningMs : silentMs)) {
      return this.#giveUp(new Error(`the consumer gave no sign of life for ${Math.round(silence)} ms`));
    }
    if (silence > lookMs) {
      void this.#spec.findMissing().then((missing) => {
        if (missing.size > 0) this.#giveUp(missingTopics(missing));
      });
    }
    this.#cancelWatch = runtime.setTimer(watchMs, () => this.#watch(), { unref: true });
  }
}

/** Each broker is fetched from on its own; one that has not been yet counts from the join. @internal */
export function longestSilence(
  brokers: readonly string[],
  fetched: ReadonlyMap<string, number>,
  joinedAt: number,
  now: number,
): number {
  const signs = brokers.map((broker) => Math.max(joinedAt, fetched.get(broker) ?? joinedAt));
  return now - Math.min(now, ...(signs.length === 0 ? [joinedAt] : signs));
}
