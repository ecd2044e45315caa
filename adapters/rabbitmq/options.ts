/** What `rabbitmq({ … })` takes, checked. */
import type { ConnectionOptions } from "node:tls";
import {
  ConfigurationError,
  type Duration,
  type TlsOptions,
  checkInteger,
  checkKeys,
  checkOneOf,
  checkString,
  checkTls,
  redactUrl,
  toMs,
} from "../../src/spi.ts";

export interface RabbitmqOptions {
  /**
   * `amqp://user:password@host:5672/vhost`, or `amqps://…` for TLS. Special characters are percent-encoded. The
   * query may say `heartbeat` (seconds) and `connection_timeout` (milliseconds), as RabbitMQ's URI specification does.
   */
  readonly url?: string | undefined;
  /** Instead of `url`: nodes of one cluster, tried in turn. */
  readonly urls?: readonly string[] | undefined;
  /** Only for `amqps://`. */
  readonly tls?: TlsOptions | undefined;
  /** How to log in. `"external"`: by the client certificate in `tls`. Default `"plain"`. */
  readonly auth?: "plain" | "amqplain" | "external" | undefined;
  /**
   * A connection on which nothing was heard for two of these is taken as dead, `"1s"`..`"5m"` in whole seconds. The
   * server may lower it. Default `"10s"`.
   */
  readonly heartbeat?: Duration | undefined;
  /** Longest try to connect to one node, login included. Default `"5s"`. */
  readonly connectTimeout?: Duration | undefined;
  /**
   * A publish that the server has not confirmed by then, though the connection lives, ends as unknown: a queue that lost
   * its leader answers nothing. Default `"15s"`.
   */
  readonly confirmTimeout?: Duration | undefined;
  /** Most messages sent and not yet confirmed, 1..10000. Default 1000. */
  readonly confirmWindow?: number | undefined;
  /** What the server's tools show the connections as. Default `"postrider"`. */
  readonly connectionName?: string | undefined;
}

/** One server to connect to. */
export interface Node {
  readonly secure: boolean;
  readonly hostname: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  /** Percent-encoded, as amqplib decodes it. */
  readonly vhost: string;
  /** `host:port`, for messages. */
  readonly address: string;
}

/** `RabbitmqOptions` checked and with defaults. */
export interface Settings {
  readonly nodes: readonly [Node, ...Node[]];
  /** For the nodes that are `secure`. */
  readonly tls: ConnectionOptions;
  readonly auth: "plain" | "amqplain" | "external";
  readonly heartbeatSeconds: number;
  readonly connectTimeoutMs: number;
  readonly confirmTimeoutMs: number;
  readonly confirmWindow: number;
  readonly connectionName: string;
}

const knownOptions = [
  "url",
  "urls",
  "tls",
  "auth",
  "heartbeat",
  "connectTimeout",
  "confirmTimeout",
  "confirmWindow",
  "connectionName",
] as const satisfies readonly (keyof RabbitmqOptions)[];

/** Throws `ConfigurationError` `ERR_CONFIG` naming the option and what is wrong with it. */
export function checkOptions(options: RabbitmqOptions): Settings {
  checkKeys("rabbitmq", options, knownOptions);
  const urls = urlsOf(options).map(parseUrl);
  const [first, ...others] = urls;
  if (first === undefined)
    throw new ConfigurationError("ERR_CONFIG", "rabbitmq urls must have at least one URL");
  const seconds = first.query.get("heartbeat");
  const timeout = first.query.get("connection_timeout");
  const heartbeatMs = toMs(
    options.heartbeat ?? (seconds === null ? "10s" : Number(seconds) * 1_000),
    "rabbitmq heartbeat",
    { min: 1_000, max: 300_000 },
  );
  return {
    nodes: [first.node, ...others.map(({ node }) => node)],
    tls: tlsOf(
      options.tls,
      urls.map(({ node }) => node),
    ),
    auth: checkOneOf("rabbitmq auth", options.auth ?? "plain", ["plain", "amqplain", "external"]),
    heartbeatSeconds: Math.round(heartbeatMs / 1_000),
    connectTimeoutMs: toMs(
      options.connectTimeout ?? (timeout === null ? "5s" : Number(timeout)),
      "rabbitmq connectTimeout",
      { min: 1 },
    ),
    confirmTimeoutMs: toMs(options.confirmTimeout ?? "15s", "rabbitmq confirmTimeout", { min: 1_000 }),
    confirmWindow: checkInteger("rabbitmq confirmWindow", options.confirmWindow ?? 1_000, 1, 10_000),
    connectionName: checkString("rabbitmq connectionName", options.connectionName ?? "postrider", 200),
  };
}

function urlsOf({ url, urls }: RabbitmqOptions): readonly string[] {
  if (url !== undefined && urls !== undefined)
    throw new ConfigurationError("ERR_CONFIG", "rabbitmq takes url or urls, not both");
  if (url !== undefined) return [url];
  if (Array.isArray(urls)) return urls;
  throw new ConfigurationError("ERR_CONFIG", "rabbitmq needs a url, such as amqp://localhost");
}

function parseUrl(text: string): { readonly node: Node; readonly query: URLSearchParams } {
  checkString("rabbitmq url", text, 2_000);
  const refuse = (why: string, cause?: unknown): never => {
    throw new ConfigurationError("ERR_CONFIG", `rabbitmq url ${redactUrl(text)} ${why}`, { cause });
  };
  const url = URL.parse(text) ?? refuse("is no URL, such as amqp://user:password@localhost:5672/vhost");
  const secure = url.protocol === "amqps:";
  if (!secure && url.protocol !== "amqp:") refuse("must begin with amqp:// or amqps://");
  if (url.hostname === "") refuse("has no host");
  // A password with an unescaped slash would be taken apart: its beginning for the host, its end for the virtual host.
  if (/@/u.test(url.pathname + url.search + url.hash))
    refuse("has an @ behind the host: percent-encode the login (/ is %2F) and the virtual host (@ is %40)");
  for (const name of url.searchParams.keys()) {
    if (name !== "heartbeat" && name !== "connection_timeout")
      refuse(`has the parameter "${name}"; there is heartbeat and connection_timeout`);
  }
  const port = url.port === "" ? (secure ? 5671 : 5672) : Number(url.port);
  const hasLogin = url.username !== "" || url.password !== "";
  try {
    const node: Node = {
      secure,
      // An IPv6 address without its brackets, as sockets take it.
      hostname: url.hostname.replace(/^\[|\]$/gu, ""),
      port,
      username: hasLogin ? decodeURIComponent(url.username) : "guest",
      password: hasLogin ? decodeURIComponent(url.password) : "guest",
      vhost: url.pathname.slice(1),
      address: `${url.hostname}:${port}`,
    };
    decodeURIComponent(node.vhost);
    return { node, query: url.searchParams };
  } catch (cause) {
    return refuse("has a % that is not followed by two hexadecimal digits", cause);
  }
}

function tlsOf(tls: TlsOptions = {}, nodes: readonly Node[]): ConnectionOptions {
  const checked = checkTls("rabbitmq tls", tls);
  if (Object.keys(tls).length > 0 && !nodes.every(({ secure }) => secure))
    throw new ConfigurationError("ERR_CONFIG", "rabbitmq tls needs URLs that begin with amqps://");
  return checked;
}
