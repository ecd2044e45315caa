/**
 * Names of topics and groups, and of everything made from them on a broker. A person recognises each at sight,
 * and two topics can never collide: names may not contain `--`, which is the separator of ours.
 */
import { formatDuration } from "./duration.ts";
import { ConfigurationError } from "./errors.ts";
import { show } from "./inspect.ts";

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;
const prefixPattern = /^[A-Za-z0-9._-]{0,30}$/;

/** RabbitMQ keeps `amq.` for itself; `postrider--delay-…` are our own shared queues. */
const reservedTopicPattern = /^(?:amq\.|postrider$)/;

/** Throws `ERR_CONFIG` unless `name` may name a topic or a group. */
export function checkName(what: "topic" | "group", name: unknown): asserts name is string {
  if (typeof name !== "string" || !namePattern.test(name) || name.includes("--") || name.includes("..")) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${what} name ${show(name)} must be 1..100 of A-Z a-z 0-9 . _ - , begin with a letter or digit, and not contain "--" or ".."`,
    );
  }
  if (what === "topic" && reservedTopicPattern.test(name)) {
    throw new ConfigurationError("ERR_CONFIG", `${what} name ${show(name)} is reserved; choose another`);
  }
}

/** Throws `ERR_CONFIG` unless `prefix` may stand in front of every name. */
export function checkPrefix(prefix: unknown): asserts prefix is string {
  if (typeof prefix !== "string" || !prefixPattern.test(prefix) || prefix.includes("--")) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `prefix ${show(prefix)} must be at most 30 of A-Z a-z 0-9 . _ - and not contain "--"`,
    );
  }
}

/** The names one bus uses on its broker. */
export interface Names {
  /** `<topic>`: exchange, Kafka topic, stream. */
  topic(topic: string): string;
  /** `<group>`: the Kafka consumer group. */
  group(group: string): string;
  /** `<topic>--<group>`: queue of a group. */
  queue(topic: string, group: string): string;
  /** `<topic>--<group>--dead`. */
  dead(topic: string, group: string): string;
  /** `<topic>--<group>--retry-30s`. */
  retry(topic: string, group: string, delayMs: number): string;
  /** `postrider--delay-30s`, shared by all topics and groups. */
  delay(delayMs: number): string;
}

/** Names with `createBus({ prefix })` in front. */
export function createNames(prefix: string): Names {
  return {
    topic: (topic) => `${prefix}${topic}`,
    group: (group) => `${prefix}${group}`,
    queue: (topic, group) => `${prefix}${topic}--${group}`,
    dead: (topic, group) => `${prefix}${topic}--${group}--dead`,
    retry: (topic, group, delayMs) => `${prefix}${topic}--${group}--retry-${formatDuration(delayMs)}`,
    delay: (delayMs) => `${prefix}postrider--delay-${formatDuration(delayMs)}`,
  };
}
