/** Settings of the broker that cannot keep what we promise: said once each, by name, with what helps. */
import { formatDuration, warnOfInsecurity } from "../../src/spi.ts";
import type { CheckedOptions } from "./options.ts";
import type { BrokerSettings, TopicSettings } from "./settings.ts";

/** Says a warning; `code` names its kind. */
type Warn = (code: string, message: string) => void;

const dayMs = 86_400_000;

export function checkBroker(options: CheckedOptions, settings: BrokerSettings, warn: Warn): void {
  const { offsetsRetentionMs, uncleanElection, brokers = 1 } = settings;
  if (offsetsRetentionMs !== undefined && offsetsRetentionMs < 7 * dayMs) {
    warn(
      "KAFKA_OFFSETS_RETENTION",
      `the broker forgets what a group has handled when the group is away for ${formatDuration(offsetsRetentionMs)}, and hands it all over again: raise offsets.retention.minutes (7 days are the default)`,
    );
  }
  if (uncleanElection === true && brokers > 1) {
    warn(
      "KAFKA_UNCLEAN_ELECTION",
      "the broker lets a replica lead that misses confirmed messages: set unclean.leader.election.enable=false",
    );
  }
  const { tls, sasl, brokers: addresses } = options;
  const clear = tls === undefined && sasl?.mechanism === "plain" ? addresses : [];
  warnOfInsecurity("Kafka", { tls, clear }, warn);
}

/** A topic that was there before: whether a confirmed message survives the loss of a broker. */
export function checkTopic(topic: string, replicas: number, settings: TopicSettings, warn: Warn): void {
  if (replicas < 3 || settings.minInsync === undefined || settings.minInsync >= 2) return;
  warn(
    `KAFKA_MIN_INSYNC:${topic}`,
    `topic "${topic}" has ${replicas} replicas but min.insync.replicas=1: a confirmed message may be on one broker only; set min.insync.replicas=2`,
  );
}

/** A retry topic of ours that somebody changed: a message must outlive its delay. */
export function checkRetryTopic(topic: string, boundMs: number, settings: TopicSettings, warn: Warn): void {
  const { retentionMs, compacted } = settings;
  if (compacted === true) {
    warn(
      `KAFKA_RETRY_COMPACTED:${topic}`,
      `retry topic "${topic}" is compacted: messages that wait there can be removed; set cleanup.policy=delete`,
    );
  }
  if (retentionMs === undefined || retentionMs < 0 || retentionMs >= boundMs + dayMs) return;
  warn(
    `KAFKA_RETRY_RETENTION:${topic}`,
    `retry topic "${topic}" keeps messages for ${formatDuration(retentionMs)}, too short for delays up to ${formatDuration(boundMs)}: set retention.ms to at least ${boundMs + dayMs}`,
  );
}
