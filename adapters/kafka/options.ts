/** What `kafka(…)` takes, checked. */
import type { ConnectionOptions } from "node:tls";
import type { SASLOptions } from "kafkajs";
import {
  ConfigurationError,
  type TlsOptions,
  checkInteger,
  checkKeys,
  checkOneOf,
  checkString,
  checkTls,
  redactUrl,
} from "../../src/spi.ts";

/** How to log in; `oauthbearer` and `aws` are handed to the client as they are. */
export type KafkaSasl = SASLOptions;

export interface KafkaOptions {
  /**
   * `kafka://host:9092,host:9092`. `?tls=true`, `?clientId=…` and, with `user:password@` in front of the hosts,
   * `?sasl=scram-sha-512` may follow; user and password are percent-encoded.
   */
  readonly url?: string | undefined;
  /** Instead of `url`: `["host:9092"]`. */
  readonly brokers?: readonly string[] | undefined;
  /** Name of this client in the broker's logs and quotas. Default `"postrider"`. */
  readonly clientId?: string | undefined;
  /** `true` for TLS as it is usual, or how. Default: no TLS. */
  readonly tls?: boolean | TlsOptions | undefined;
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
  readonly tls: ConnectionOptions | undefined;
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
  "tls",
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
    tls: tlsOf(options.tls ?? fromUrl?.tls ?? false),
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
function parseUrl(url: unknown): Pick<KafkaOptions, "clientId" | "tls" | "sasl"> & { brokers: string[] } {
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
  checkKeys("kafka url", Object.fromEntries(parameters), ["tls", "sasl", "clientId"]);
  const tls = parameters.get("tls");
  if (tls !== null && tls !== "true" && tls !== "false") refuse("must have tls=true or tls=false");
  return {
    brokers: checkBrokers(hosts.split(",")),
    ...(tls === null ? {} : { tls: tls === "true" }),
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

function tlsOf(tls: boolean | TlsOptions): ConnectionOptions | undefined {
  if (tls === false) return undefined;
  return checkTls("kafka tls", tls === true ? {} : tls);
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
