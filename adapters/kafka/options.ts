/** What `kafka(…)` takes, checked. */
import type { ConnectionOptions } from "node:tls";
import type { SASLOptions } from "kafkajs";
import {
  ConfigurationError,
  checkInteger,
  checkKeys,
  checkOneOf,
  checkString,
  redactUrl,
} from "../../src/spi.ts";

/** How to log in; `oauthbearer` and `aws` are handed to the client as they are. */
export type KafkaSasl = SASLOptions;

export interface KafkaOptions {
  /**
   * `kafka://host:9092,host:9092`. `?ssl=true`, `?clientId=…` and, with `user:password@` in front of the hosts,
   * `?sasl=scram-sha-512` may follow; user and password are percent-encoded.
   */
  readonly url?: string | undefined;
  /** Instead of `url`: `["host:9092"]`. */
  readonly brokers?: readonly string[] | undefined;
  /** Name of this client in the broker's logs and quotas. Default `"postrider"`. */
  readonly clientId?: string | undefined;
  /** `true`, or Node's TLS options (`ca`, `cert`, `key`, `servername`, …). Default: no TLS. */
  readonly ssl?: boolean | ConnectionOptions | undefined;
  readonly sasl?: KafkaSasl | undefined;
  /** Of topics we create. Default: 3, or as many as there are brokers. */
  readonly replicationFactor?: number | undefined;
  /**
   * Largest body in bytes; topics we create get a `max.message.bytes` to match. Default 1,000,000, which fits a broker's
   * default of 1 MiB with headers.
   */
  readonly maxMessageBytes?: number | undefined;
}

/** `KafkaOptions` checked and with defaults. */
export interface CheckedOptions {
  readonly brokers: readonly string[];
  readonly clientId: string;
  readonly ssl: boolean | ConnectionOptions;
  readonly sasl: SASLOptions | undefined;
  readonly replicationFactor: number | undefined;
  readonly maxMessageBytes: number;
  /** Whether the limit was asked for, so that topics are made to match it. */
  readonly ownMessageLimit: boolean;
}

const knownOptions = [
  "url",
  "brokers",
  "clientId",
  "ssl",
  "sasl",
  "replicationFactor",
  "maxMessageBytes",
] as const satisfies readonly (keyof KafkaOptions)[];

const defaultMessageBytes = 1_000_000;
const mechanisms = ["plain", "scram-sha-256", "scram-sha-512"] as const;

/** Throws `ERR_CONFIG`. Never shows a password. */
export function checkOptions(options: KafkaOptions): CheckedOptions {
  checkKeys("kafka", options, knownOptions);
  if ((options.url === undefined) === (options.brokers === undefined)) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      "kafka: give either url or brokers, such as kafka://localhost:9092",
    );
  }
  const fromUrl = options.url === undefined ? undefined : parseUrl(options.url);
  const sasl = options.sasl ?? fromUrl?.sasl;
  if (sasl !== undefined) checkSasl(sasl);
  return {
    brokers: fromUrl?.brokers ?? checkBrokers(options.brokers),
    clientId: checkString("kafka clientId", options.clientId ?? fromUrl?.clientId ?? "postrider", 200),
    ssl: checkSsl(options.ssl ?? fromUrl?.ssl ?? false),
    sasl,
    replicationFactor:
      options.replicationFactor === undefined
        ? undefined
        : checkInteger("kafka replicationFactor", options.replicationFactor, 1, 100),
    maxMessageBytes: checkInteger(
      "kafka maxMessageBytes",
      options.maxMessageBytes ?? defaultMessageBytes,
      1_024,
      512 * 1_048_576,
    ),
    ownMessageLimit: options.maxMessageBytes !== undefined,
  };
}

/** The platform's URL parser knows no list of hosts. */
function parseUrl(url: unknown): Pick<KafkaOptions, "clientId" | "ssl" | "sasl"> & { brokers: string[] } {
  const shown = typeof url === "string" ? redactUrl(url) : String(url);
  const refuse = (why: string): never => {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `kafka url "${shown}" ${why}, as in kafka://host:9092,host:9092`,
    );
  };
  const match = /^kafka:\/\/(?:([^@/?]*)@)?([^@/?]+)\/?(?:\?(.*))?$/iu.exec(
    typeof url === "string" ? url : "",
  );
  if (match === null) return refuse("must name its brokers");
  const [, login, hosts = "", query = ""] = match;
  const parameters = new URLSearchParams(query);
  checkKeys("kafka url", Object.fromEntries(parameters), ["ssl", "sasl", "clientId"]);
  const ssl = parameters.get("ssl");
  if (ssl !== null && ssl !== "true" && ssl !== "false") refuse("must have ssl=true or ssl=false");
  return {
    brokers: checkBrokers(hosts.split(",")),
    ...(ssl === null ? {} : { ssl: ssl === "true" }),
    ...(parameters.has("clientId") ? { clientId: parameters.get("clientId") ?? "" } : {}),
    ...(login === undefined ? {} : { sasl: parseLogin(login, parameters.get("sasl"), refuse) }),
  };
}

function parseLogin(login: string, mechanism: string | null, refuse: (why: string) => never): SASLOptions {
  const [username = "", password = "", ...more] = login.split(":");
  if (more.length > 0) refuse("must have user:password percent-encoded");
  if (!mechanisms.includes(mechanism as never))
    refuse(`must say how to log in, sasl=${mechanisms.join(" or sasl=")}`);
  try {
    const credentials = { username: decodeURIComponent(username), password: decodeURIComponent(password) };
    return { mechanism: mechanism as (typeof mechanisms)[number], ...credentials };
  } catch {
    return refuse("must have user:password percent-encoded");
  }
}

function checkBrokers(brokers: unknown): string[] {
  if (!Array.isArray(brokers) || brokers.length === 0) {
    throw new ConfigurationError("ERR_CONFIG", `kafka brokers must be a list such as ["localhost:9092"]`);
  }
  return brokers.map((broker: unknown) => {
    const [, host, port = "9092"] =
      /^([^:/@\s]+)(?::(\d{1,5}))?$/u.exec(typeof broker === "string" ? broker : "") ?? [];
    // An IPv6 address cannot be given: the client takes what is before the first colon for the host.
    if (host === undefined || Number(port) < 1 || Number(port) > 65_535) {
      const shown = typeof broker === "string" ? redactUrl(broker) : typeof broker;
      throw new ConfigurationError("ERR_CONFIG", `kafka broker "${shown}" must be host:port`);
    }
    return `${host}:${port}`;
  });
}

function checkSsl(ssl: unknown): boolean | ConnectionOptions {
  if (typeof ssl === "boolean") return ssl;
  if (typeof ssl === "object" && ssl !== null && !Array.isArray(ssl)) return ssl;
  throw new ConfigurationError("ERR_CONFIG", "kafka ssl must be true, false or TLS options");
}

function checkSasl(sasl: SASLOptions): void {
  if (typeof sasl !== "object" || sasl === null) {
    throw new ConfigurationError("ERR_CONFIG", "kafka sasl must be { mechanism, username, password }");
  }
  const mechanism = checkOneOf("kafka sasl.mechanism", sasl.mechanism, [...mechanisms, "oauthbearer", "aws"]);
  if (mechanism === "oauthbearer" || mechanism === "aws") return;
  for (const name of ["username", "password"] as const) {
    if (typeof (sasl as { readonly [name]?: unknown })[name] !== "string") {
      throw new ConfigurationError("ERR_CONFIG", `kafka sasl.${name} must be a string`);
    }
  }
}
