/** What `mysql()` takes, checked. */
import type { Pool as CallbackPool } from "mysql2";
import type { Pool, PoolOptions } from "mysql2/promise";
import { ConfigurationError, checkInteger, checkKeys, checkString, redactUrl } from "../../src/spi.ts";

interface CommonOptions {
  /**
   * What the names of the tables begin with. Default `"postrider_"`. Services that share a database may share the tables
   * (one relay then serves them all) or have their own.
   */
  readonly prefix?: string | undefined;
}

/**
 * A pool of yours, or how to make one: a URL, or any option of `mysql2`'s own pool.
 *
 * With a pool of yours every transaction of a handler holds one of its connections, and so, for a moment, does each
 * statement of relay and inbox, after others that see to the session's settings: make it at least as large as the
 * consumers' concurrency plus two. The store never ends it. Otherwise the store opens two: one
 * for transactions (`connectionLimit`, default 20) and a small one (4) for the rest, so that busy handlers never keep the
 * relay from its lease.
 */
export type MysqlOptions = CommonOptions &
  (
    | { readonly pool: Pool | CallbackPool }
    /** `mysql://user:password@host:3306/database` */
    | ({ readonly url: string } & Omit<PoolOptions, "uri">)
    | PoolOptions
  );

export interface Settings {
  readonly prefix: string;
  readonly pool: Pool | undefined;
  /** For pools of our own. */
  readonly config: PoolOptions;
}

/** Options of `mysql2`'s pool and connection, as of mysql2 3.24. */
const poolOptions = [
  "authPlugins",
  "authSwitchHandler",
  "bigNumberStrings",
  "charset",
  "charsetNumber",
  "compress",
  "connectAttributes",
  "connectTimeout",
  "connectionLimit",
  "database",
  "dateStrings",
  "debug",
  "decimalNumbers",
  "disableEval",
  "enableCleartextPlugin",
  "enableKeepAlive",
  "flags",
  "gracefulEnd",
  "host",
  "idleTimeout",
  "infileStreamFactory",
  "insecureAuth",
  "jsonStrings",
  "keepAliveInitialDelay",
  "localAddress",
  "maxIdle",
  "maxPreparedStatements",
  "multipleStatements",
  "namedPlaceholders",
  "nestTables",
  "password",
  "password1",
  "password2",
  "password3",
  "passwordSha1",
  "port",
  "queryFormat",
  "queueLimit",
  "resetOnRelease",
  "rowsAsArray",
  "socketPath",
  "ssl",
  "stream",
  "stringifyObjects",
  "supportBigNumbers",
  "timezone",
  "trace",
  "typeCast",
  "uri",
  "user",
  "waitForConnections",
];

/** Throws `ERR_CONFIG` on an option that is unknown, wrong, or contradicts another. */
export function checkOptions(options: MysqlOptions): Settings {
  checkKeys("mysql", options, ["prefix", "pool", "url", ...poolOptions]);
  const { prefix = "postrider_", pool, url, ...config } = options as Record<string, unknown> & PoolOptions;
  const settings = { prefix: checkPrefix(prefix), pool: undefined, config };
  if (pool !== undefined) {
    const others = [...(url === undefined ? [] : ["url"]), ...Object.keys(config)];
    if (others.length === 0) return { ...settings, pool: checkPool(pool) };
    throw new ConfigurationError(
      "ERR_CONFIG",
      `mysql: "${others[0]}" has no effect beside "pool"; set it where the pool is made`,
    );
  }
  if (config.connectionLimit !== undefined)
    checkInteger("mysql connectionLimit", config.connectionLimit, 1, 10_000);
  if (url !== undefined && config.uri !== undefined)
    throw new ConfigurationError("ERR_CONFIG", 'mysql: give "url" or "uri", not both');
  const given = url ?? config.uri;
  if (given === undefined) return settings;
  const uri = checkUrl(given);
  // `mysql2` puts what the URL says behind what is said beside it, and the size of our pools is always said.
  const limit = new URL(uri).searchParams.get("connectionLimit");
  if (limit === null) return { ...settings, config: { ...config, uri } };
  const connectionLimit = checkInteger("mysql connectionLimit", Number(limit), 1, 10_000);
  return { ...settings, config: { connectionLimit, ...config, uri } };
}

function checkPrefix(prefix: unknown): string {
  const name = checkString("mysql prefix", prefix, 40);
  if (/^[a-z_][a-z0-9_]*$/u.test(name)) return name;
  throw new ConfigurationError(
    "ERR_CONFIG",
    `mysql prefix must match ^[a-z_][a-z0-9_]{0,39}$, got "${name}"`,
  );
}

/** The pool of `mysql2/promise`; that of `mysql2` has one to it. */
function checkPool(pool: unknown): Pool {
  const { getConnection, promise } = pool as Partial<CallbackPool>;
  if (typeof getConnection === "function") {
    if (typeof promise === "function") return (pool as CallbackPool).promise();
    if (typeof (pool as Partial<Pool>).pool === "object") return pool as Pool;
  }
  throw new ConfigurationError(
    "ERR_CONFIG",
    'mysql pool must be a Pool of "mysql2" or "mysql2/promise": mysql({ pool: createPool({ … }) })',
  );
}

function checkUrl(url: unknown): string {
  const text = checkString("mysql url", url, 4_096);
  if (/^(?:mysql|mariadb):\/\//u.test(text) && URL.canParse(text)) {
    checkKeys("mysql url", Object.fromEntries(new URL(text).searchParams), poolOptions);
    return text;
  }
  throw new ConfigurationError(
    "ERR_CONFIG",
    `mysql url must be like mysql://user:password@host:3306/database, got "${redactUrl(text)}"`,
  );
}
