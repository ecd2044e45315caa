/** Options of the adapter, checked before anything connects. */
import type { ConnectionOptions } from "node:tls";
import {
  ConfigurationError,
  type Duration,
  type TlsOptions,
  checkInteger,
  checkKeys,
  checkString,
  checkTls,
  redactUrl,
  toMs,
} from "../../src/spi.ts";

export interface RedisOptions {
  /** `redis://[user[:password]@]host[:port][/database]`, or `rediss://…` for TLS. */
  readonly url: string;
  /** ACL user; overrides the URL's. */
  readonly username?: string | undefined;
  /** Overrides the URL's. */
  readonly password?: string | undefined;
  /** Turns TLS on. */
  readonly tls?: TlsOptions | undefined;
  /** Longest wait for one connection to be usable. Default `"10s"`. */
  readonly connectTimeout?: Duration | undefined;
  /**
   * Longest wait for an answer of the server. Then the connection is replaced, and a publish ends as `unknown`: it is
   * tried again under the same id. Default `"10s"`.
   */
  readonly commandTimeout?: Duration | undefined;
  /** How long a message id, and an idempotency key, are remembered: published again meanwhile they are not stored again. Default `"10m"`. */
  readonly dedupeWindow?: Duration | undefined;
  /**
   * Replicas that must have a message before a publish with durability `"replicated"` is confirmed (`WAIT`). Fewer: the
   * publish ends as `unknown` and is tried again. Default 0.
   */
  readonly replicas?: number | undefined;
}

/** `RedisOptions` checked and with defaults. */
export interface CheckedOptions {
  readonly host: string;
  readonly port: number;
  readonly database: number;
  readonly username: string | undefined;
  readonly password: string | undefined;
  readonly tls: ConnectionOptions | undefined;
  /** `host:port`, as messages name it. */
  readonly target: string;
  readonly connectTimeoutMs: number;
  readonly commandTimeoutMs: number;
  readonly dedupeWindowMs: number;
  readonly replicas: number;
}

const knownOptions = [
  "url",
  "username",
  "password",
  "tls",
  "connectTimeout",
  "commandTimeout",
  "dedupeWindow",
  "replicas",
] as const satisfies readonly (keyof RedisOptions)[];

/** Throws `ERR_CONFIG`, never showing a password. */
export function checkOptions(options: RedisOptions): CheckedOptions {
  checkKeys("redis", options, knownOptions);
  const url = parseUrl(options.url);
  const { tls = url.protocol === "rediss:" ? {} : undefined } = options;
  // An IPv6 address is in brackets in a URL, and nowhere else.
  const host = url.hostname === "" ? "localhost" : url.hostname.replace(/^\[|\]$/gu, "");
  const port = url.port === "" ? 6379 : Number(url.port);
  return {
    host,
    port,
    database: databaseOf(url),
    username: optional("username", options.username) ?? decoded(url.username),
    password: optional("password", options.password) ?? decoded(url.password),
    tls: tls === undefined ? undefined : checkTls("redis tls", tls),
    target: `${url.hostname === "" ? host : url.hostname}:${port}`,
    connectTimeoutMs: toMs(options.connectTimeout ?? "10s", "redis connectTimeout", { min: 1 }),
    commandTimeoutMs: toMs(options.commandTimeout ?? "10s", "redis commandTimeout", { min: 100 }),
    dedupeWindowMs: toMs(options.dedupeWindow ?? "10m", "redis dedupeWindow", {
      min: 1_000,
      max: 30 * 86_400_000,
    }),
    replicas: checkInteger("redis replicas", options.replicas ?? 0, 0, 100),
  };
}

function parseUrl(text: unknown): URL {
  const url = typeof text === "string" && URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || (url.protocol !== "redis:" && url.protocol !== "rediss:")) {
    const shown = typeof text === "string" ? redactUrl(text).slice(0, 80) : String(text);
    throw new ConfigurationError(
      "ERR_CONFIG",
      `redis url must be redis://host:port or rediss://host:port, got ${JSON.stringify(shown)}`,
    );
  }
  if (url.search !== "" || url.hash !== "") {
    throw new ConfigurationError(
      "ERR_CONFIG",
      "redis url takes no query and no fragment; give such settings as options of redis({ … })",
    );
  }
  return url;
}

function databaseOf(url: URL): number {
  const path = url.pathname.replace(/^\//u, "");
  if (path === "") return 0;
  if (!/^\d{1,5}$/u.test(path)) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      // A password with an unescaped slash begins the path too early.
      `the path of the redis url must be the number of a database, got ${JSON.stringify(redactUrl(url.href).slice(0, 80))}; a / in a password is written %2F`,
    );
  }
  return Number(path);
}

function optional(option: string, value: unknown): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== "string") {
    throw new ConfigurationError("ERR_CONFIG", `redis ${option} must be a string`);
  }
  return checkString(`redis ${option}`, value, 10_000);
}

/** A part of the URL as it was meant; one that is not well encoded is taken as it is. */
function decoded(part: string): string | undefined {
  if (part === "") return undefined;
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
