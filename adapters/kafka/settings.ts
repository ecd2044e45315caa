/** The broker's and the topics' own settings, as far as this user may read them. */
import type { Admin, ConfigResourceTypes } from "kafkajs";
import type { KafkaJs } from "./client.ts";

/** Undefined where the broker did not tell. */
export interface BrokerSettings {
  readonly minSessionMs?: number | undefined;
  readonly maxSessionMs?: number | undefined;
  readonly offsetsRetentionMs?: number | undefined;
  readonly maxMessageBytes?: number | undefined;
  readonly maxMetadata?: number | undefined;
  readonly uncleanElection?: boolean | undefined;
  readonly brokers?: number | undefined;
}

export interface TopicSettings {
  readonly minInsync?: number | undefined;
  /** -1: for ever. */
  readonly retentionMs?: number | undefined;
  readonly maxMessageBytes?: number | undefined;
  readonly compacted?: boolean | undefined;
}

/** Where to ask. */
interface Source {
  readonly admin: Admin;
  readonly library: Pick<KafkaJs, "ConfigResourceTypes">;
}

/** Never rejects: a user who may not read settings can do without. */
export async function readBrokerSettings(
  source: Source,
  brokers: readonly number[] | undefined,
): Promise<BrokerSettings> {
  const [first] = brokers ?? [];
  if (first === undefined) return {};
  const read = await describe(source.admin, source.library.ConfigResourceTypes.BROKER, [String(first)]);
  const values = read.get(String(first));
  if (values === undefined) return { brokers: brokers?.length };
  const minutes = numberOf(values, "offsets.retention.minutes");
  return {
    minSessionMs: numberOf(values, "group.min.session.timeout.ms"),
    maxSessionMs: numberOf(values, "group.max.session.timeout.ms"),
    offsetsRetentionMs: minutes === undefined ? undefined : minutes * 60_000,
    maxMessageBytes: numberOf(values, "message.max.bytes"),
    maxMetadata: numberOf(values, "offset.metadata.max.bytes"),
    uncleanElection: values.get("unclean.leader.election.enable") === "true",
    brokers: brokers?.length,
  };
}

/** Never rejects, like `readBrokerSettings`. */
export async function readTopicSettings(
  source: Source,
  topics: readonly string[],
): Promise<ReadonlyMap<string, TopicSettings>> {
  if (topics.length === 0) return new Map();
  const read = await describe(source.admin, source.library.ConfigResourceTypes.TOPIC, topics);
  return new Map(
    Array.from(read, ([topic, values]) => [
      topic,
      {
        minInsync: numberOf(values, "min.insync.replicas"),
        retentionMs: numberOf(values, "retention.ms"),
        maxMessageBytes: numberOf(values, "max.message.bytes"),
        compacted: values.get("cleanup.policy")?.includes("compact"),
      },
    ]),
  );
}

async function describe(
  admin: Admin,
  type: ConfigResourceTypes,
  names: readonly string[],
): Promise<ReadonlyMap<string, ReadonlyMap<string, string>>> {
  try {
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: names.map((name) => ({ type, name })),
    });
    return new Map(
      resources.map(({ resourceName, configEntries }) => [
        resourceName,
        new Map(configEntries.map(({ configName, configValue }) => [configName, configValue])),
      ]),
    );
  } catch {
    // Not allowed, or not now: what depends on it falls back to Kafka's defaults, and nothing is promised by it.
    return new Map();
  }
}

function numberOf(values: ReadonlyMap<string, string>, name: string): number | undefined {
  const value = values.get(name);
  return value === undefined || value === null || value === "" || Number.isNaN(Number(value))
    ? undefined
    : Number(value);
}
