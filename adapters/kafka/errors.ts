/** The client's errors as the library's. The outer class of the client's errors says little; what counts is in the chain of causes. */
import { ConfigurationError, MessagingError, TransportError, isTlsCode } from "../../src/spi.ts";

/** What can be read from an error and its causes. */
interface Facts {
  /** The broker's error names, such as `MESSAGE_TOO_LARGE`. */
  readonly types: ReadonlySet<string>;
  /** Node's error codes, such as `ECONNREFUSED`. */
  readonly codes: ReadonlySet<string>;
  readonly names: ReadonlySet<string>;
  readonly text: string;
}

const authTypes: readonly string[] = [
  "SASL_AUTHENTICATION_FAILED",
  "UNSUPPORTED_SASL_MECHANISM",
  "ILLEGAL_SASL_STATE",
  "SECURITY_DISABLED",
];
const forbiddenTypes: readonly string[] = [
  "TOPIC_AUTHORIZATION_FAILED",
  "GROUP_AUTHORIZATION_FAILED",
  "CLUSTER_AUTHORIZATION_FAILED",
  "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
];
const topologyTypes: readonly string[] = [
  "INVALID_TOPIC_EXCEPTION",
  "INVALID_PARTITIONS",
  "INVALID_REPLICATION_FACTOR",
  "INVALID_REPLICA_ASSIGNMENT",
  "INVALID_CONFIG",
  "POLICY_VIOLATION",
  "INCONSISTENT_GROUP_PROTOCOL",
  "INVALID_GROUP_ID",
  "INVALID_SESSION_TIMEOUT",
];
const tooLargeTypes: readonly string[] = ["MESSAGE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"];
const badRecordTypes: readonly string[] = [
  "INVALID_RECORD",
  "INVALID_TIMESTAMP",
  "UNSUPPORTED_FOR_MESSAGE_FORMAT",
];

/** Produce errors after which the broker surely does not have the batch. */
const notStoredTypes: readonly string[] = [
  ...tooLargeTypes,
  ...forbiddenTypes,
  ...topologyTypes,
  ...badRecordTypes,
  "UNKNOWN_TOPIC_OR_PARTITION",
  "CORRUPT_MESSAGE",
  "INVALID_REQUIRED_ACKS",
  "NOT_LEADER_FOR_PARTITION",
  "LEADER_NOT_AVAILABLE",
  "NOT_ENOUGH_REPLICAS",
  "KAFKA_STORAGE_ERROR",
];

/** Whether a produce request that the broker answered with this error was surely not stored. */
export function isNotStored(error: unknown): boolean {
  return hasType(error, ...notStoredTypes);
}

/** Whether the broker refused for good what it was sent, so that a part of it may still be taken. */
export function isRefusal(error: unknown): boolean {
  return hasType(error, ...tooLargeTypes, ...forbiddenTypes, ...badRecordTypes, "POLICY_VIOLATION");
}

export function isTopicMissing(error: unknown): boolean {
  return hasType(error, "UNKNOWN_TOPIC_OR_PARTITION");
}

/** Topics that are gone although they were there, as the broker would say it. */
export function missingTopics(topics: ReadonlySet<string>): Error {
  const names = [...topics].map((topic) => `"${topic}"`).join(", ");
  const error = new Error(`topic ${names} does not exist any more`);
  return Object.assign(error, { type: "UNKNOWN_TOPIC_OR_PARTITION" });
}

/** Whether a topic, a partition's leader, or a group's coordinator is not where it will be in a moment. */
export function isNotYetKnown(error: unknown): boolean {
  return hasType(
    error,
    "UNKNOWN_TOPIC_OR_PARTITION",
    "NOT_LEADER_FOR_PARTITION",
    "GROUP_LOAD_IN_PROGRESS",
    "GROUP_COORDINATOR_NOT_AVAILABLE",
    "NOT_COORDINATOR_FOR_GROUP",
  );
}

export function isForbidden(error: unknown): boolean {
  return hasType(error, ...forbiddenTypes);
}

/** Whether the broker says so by one of these names, anywhere in the chain. */
export function hasType(error: unknown, ...names: readonly string[]): boolean {
  const { types } = factsOf(error);
  return names.some((name) => types.has(name));
}

/**
 * What a failed call is called. `what` names the call, `fallback` its code when the error says nothing more exact. Wrong
 * credentials and certificates are not worth another try; nor is what the cluster forbids.
 */
export function kafkaError(
  what: string,
  cause: unknown,
  fallback: "ERR_CONNECT" | "ERR_CONNECTION_LOST" | "ERR_BROKER",
): MessagingError {
  if (MessagingError.is(cause)) return cause;
  const facts = factsOf(cause);
  const has = (types: readonly string[]): boolean => types.some((type) => facts.types.has(type));
  const text = `${what}: ${facts.text}.`;
  if (facts.names.has("KafkaJSSASLAuthenticationError") || has(authTypes)) {
    return new TransportError("ERR_AUTH", `${text} Check sasl: mechanism, username and password.`, { cause });
  }
  if (has(forbiddenTypes)) {
    return new TransportError("ERR_AUTH", `${text} Give this user the right by an ACL.`, { cause });
  }
  const tls = tlsError(text, facts, cause);
  if (tls !== undefined) return tls;
  if (has(tooLargeTypes)) {
    const advice = "Raise max.message.bytes of the topic, or send a reference (claim check).";
    return new MessagingError("ERR_TOO_LARGE", `${text} ${advice}`, { cause });
  }
  if (has(badRecordTypes)) {
    const advice = "A compacted topic takes no message without a key.";
    return new MessagingError("ERR_ENCODE", `${text} ${advice}`, { cause });
  }
  if (has(topologyTypes)) return new TransportError("ERR_TOPOLOGY", text, { cause });
  if (facts.types.has("UNKNOWN_TOPIC_OR_PARTITION"))
    return new TransportError("ERR_DESTINATION", text, { cause });
  if (facts.names.has("KafkaJSNotImplemented")) return unsupportedCodec(text, cause);
  return new TransportError(fallback, `${text}${listenerHint(facts)}`, { cause });
}

/** Why a configuration of TLS does not work. */
function tlsError(text: string, facts: Facts, cause: unknown): MessagingError | undefined {
  const code = [...facts.codes].find(isTlsCode);
  const noTls = facts.text.includes("before secure TLS connection");
  if (code === undefined && !noTls) return undefined;
  const advice = noTls
    ? "The listener may not speak TLS: try without tls, or its TLS port."
    : "Check tls: ca, cert, key and the host name of the certificate.";
  return new TransportError("ERR_TLS", `${text} ${advice}`, { cause });
}

function unsupportedCodec(text: string, cause: unknown): MessagingError {
  const advice = "The topic has records in a compression this process has no codec for.";
  return new ConfigurationError("ERR_DEPENDENCY", `${text} ${advice}`, { cause });
}

/** A listener that expects TLS or SASL closes the connection and says nothing. */
function listenerHint({ text }: Facts): string {
  return text.includes("Closed connection") || text.includes("closed by the server")
    ? " If it never worked: the listener may expect tls or sasl."
    : "";
}

function factsOf(error: unknown): Facts {
  const types = new Set<string>();
  const codes = new Set<string>();
  const names = new Set<string>();
  let text = "";
  const seen = new Set<unknown>();
  const look = (one: unknown): void => {
    if (typeof one !== "object" || one === null || seen.has(one)) return;
    seen.add(one);
    const { type, code, name, message, cause, errors } = one as Record<string, unknown>;
    if (typeof type === "string") types.add(type);
    if (typeof code === "string") codes.add(code);
    if (typeof name === "string") names.add(name);
    if (typeof message === "string" && message !== "") text = message;
    if (Array.isArray(errors)) for (const inner of errors) look(inner);
    look(cause);
  };
  look(error);
  return { types, codes, names, text: (text === "" ? String(error) : text).replace(/\.+$/u, "") };
}
