/** Knows the topics: how many partitions they have, whether they are there, and how to make those that are not. */
import type { ITopicConfig } from "kafkajs";
import type { KafkaConnection } from "./connection.ts";
import { hasType, isTopicMissing, kafkaError } from "./errors.ts";
import { readTopicSettings } from "./settings.ts";

export interface TopicInfo {
  readonly partitions: number;
  readonly replicas: number;
  /** Most bytes in one batch of records. */
  readonly maxBatchBytes: number;
}

/** A topic that should be there. */
export interface TopicPlan {
  readonly name: string;
  readonly partitions: number;
  readonly config: Readonly<Record<string, string>>;
}

const createTimeoutMs = 10_000;
/** How long a new topic may take until its partitions have leaders. */
const leadersMs = 15_000;
const pollMs = 25;
/** After this long what is known of a topic is asked anew, beside its use: partitions may have been added. */
const freshMs = 10_000;

interface Known {
  readonly info: TopicInfo;
  readonly at: number;
}

export class Topics {
  readonly #connection: KafkaConnection;
  readonly #known = new Map<string, Known>();
  readonly #asking = new Map<string, Promise<TopicInfo | undefined>>();

  constructor(connection: KafkaConnection) {
    this.#connection = connection;
  }

  /** What is known of a topic without asking. */
  known(name: string): TopicInfo | undefined {
    const known = this.#known.get(name);
    if (known === undefined) return undefined;
    // A failure to refresh leaves what is known; the next use asks again.
    if (this.#connection.runtime.monotonic() - known.at > freshMs) void this.ask(name).catch(() => undefined);
    return known.info;
  }

  /** Asks the broker; `undefined` when there is no such topic. Rejects with the library's error. */
  ask(name: string): Promise<TopicInfo | undefined> {
    const asking = this.#asking.get(name) ?? this.#ask(name).finally(() => this.#asking.delete(name));
    this.#asking.set(name, asking);
    return asking;
  }

  /** Which of them are not there. Those that cannot be asked for are taken to be. */
  async missing(names: readonly string[]): Promise<ReadonlySet<string>> {
    const missing = new Set<string>();
    for (const name of names) {
      const there = await this.ask(name).catch(() => "unknown");
      if (there === undefined) missing.add(name);
    }
    return missing;
  }

  /** What is known was wrong. */
  forget(name: string): void {
    this.#known.delete(name);
  }

  /**
   * Makes what is missing and leaves what is there as it is. Resolves with those it found, and when every partition has a
   * leader. Rejects with the library's error.
   */
  async ensure(plans: readonly TopicPlan[]): Promise<ReadonlyMap<string, TopicInfo>> {
    const found = new Map<string, TopicInfo>();
    const missing: TopicPlan[] = [];
    for (const plan of plans) {
      const info = await this.ask(plan.name);
      if (info === undefined) missing.push(plan);
      else found.set(plan.name, info);
    }
    if (missing.length > 0) await this.#create(missing);
    return found;
  }

  async #ask(name: string): Promise<TopicInfo | undefined> {
    try {
      const { topics } = await this.#connection.admin.fetchTopicMetadata({ topics: [name] });
      const partitions = topics.find((topic) => topic.name === name)?.partitions ?? [];
      const info = {
        partitions: partitions.length,
        replicas: partitions[0]?.replicas.length ?? 1,
        maxBatchBytes: this.#known.get(name)?.info.maxBatchBytes ?? (await this.#maxBatchBytes(name)),
      };
      this.#known.set(name, { info, at: this.#connection.runtime.monotonic() });
      return info;
    } catch (cause) {
      if (!isTopicMissing(cause))
        throw kafkaError(`cannot ask for topic "${name}"`, cause, "ERR_CONNECTION_LOST");
      this.#known.delete(name);
      return undefined;
    }
  }

  async #maxBatchBytes(name: string): Promise<number> {
    const own = (await readTopicSettings(this.#connection, [name])).get(name);
    return own?.maxMessageBytes ?? this.#connection.maxBatchBytes;
  }

  async #create(plans: readonly TopicPlan[]): Promise<void> {
    const { admin, replicationFactor, runtime, ended } = this.#connection;
    const names = plans.map(({ name }) => name).join(", ");
    try {
      await admin.createTopics({
        // It would reject although the topic was made; the partitions' leaders are waited for below.
        waitForLeaders: false,
        timeout: createTimeoutMs,
        topics: plans.map((plan) => toTopicConfig(plan, replicationFactor)),
      });
    } catch (cause) {
      // Several at once, one of which somebody else makes at this moment.
      if (!hasType(cause, "TOPIC_ALREADY_EXISTS"))
        throw kafkaError(`cannot create ${names}`, cause, "ERR_BROKER");
      if (plans.length > 1) for (const plan of plans) await this.ensure([plan]);
    }
    const deadline = runtime.monotonic() + leadersMs;
    for (const { name } of plans) {
      while ((await this.ask(name)) === undefined) {
        if (runtime.monotonic() > deadline) {
          throw kafkaError(
            `cannot create ${names}`,
            new Error(`"${name}" did not appear in time`),
            "ERR_BROKER",
          );
        }
        await runtime.sleep(pollMs, ended);
      }
    }
  }
}

function toTopicConfig({ name, partitions, config }: TopicPlan, replicationFactor: number): ITopicConfig {
  const insync =
    replicationFactor > 1 ? { "min.insync.replicas": String(Math.max(1, replicationFactor - 1)) } : {};
  const entries = Object.entries({ ...insync, ...config });
  return {
    topic: name,
    numPartitions: partitions,
    replicationFactor,
    configEntries: entries.map(([key, value]) => ({ name: key, value })),
  };
}
