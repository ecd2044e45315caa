/** What `postgres()` takes, checked. */
import type { Pool, PoolConfig } from "pg";
import type { PgliteDatabase } from "./pglite-stream.ts";
import { ConfigurationError, checkInteger, checkKeys, checkString, redactUrl } from "../../src/spi.ts";

interface CommonOptions {
  /**
   * Schema of the tables. Default `"postrider"`. Services that share a database may share it (one relay then serves them
   * all) or have one each.
   */
  readonly schema?: string | undefined;
}

/**
 * A pool of yours, or how to make one: a URL, or any option of `pg`'s own pool. Or, for tests, a PGlite.
 *
 * With a pool of yours every transaction of a handler holds one of its connections, and so, for a moment, does each
 * statement of relay and inbox: make it at least as large as the consumers' concurrency plus two. The store never ends
 * it. Otherwise the store opens two: one for transactions (`max`, default 20) and a small one (4) for the rest, so that
 * busy handlers never keep the relay from its lease.
 */
export type PostgresOptions = CommonOptions &
  (
    | { readonly pool: Pool }
    /** `postgres://user:password@host:5432/database?sslmode=require` */
    | ({ readonly url: string } & Omit<PoolConfig, "connectionString">)
    | PoolConfig
    /**
     * A `PGlite` of yours, for tests: it never flushes to disk, which is warned of (`POSTGRES_FSYNC`). It has one session,
     * so transactions, yours too, wait for one another; `await bus.connect()` before you begin one in which you publish.
     */
    | { readonly pglite: PgliteDatabase }
  );

export interface Settings {
  readonly schema: string;
  readonly pool: Pool | undefined;
  readonly pglite: PgliteDatabase | undefined;
  /** For pools of our own. */
  readonly config: PoolConfig;
}

/** Options of `pg`'s pool and client, as of pg 8.23. */
const poolOptions = [
  "Client",
  "Promise",
  "allowExitOnIdle",
  "application_name",
  "client_encoding",
  "connectionString",
  "connectionTimeoutMillis",
  "database",
  "enableChannelBinding",
  "fallback_application_name",
  "host",
  "idleTimeoutMillis",
  "idle_in_transaction_session_timeout",
  "keepAlive",
  "keepAliveInitialDelayMillis",
  "lock_timeout",
  "log",
  "max",
  "maxLifetimeSeconds",
  "maxUses",
  "min",
  "onConnect",
  "options",
  "password",
  "port",
  "query_timeout",
  "scramMaxIterations",
  "ssl",
  "sslnegotiation",
  "statement_timeout",
  "stream",
  "types",
  "user",
  "verify",
];

/** Throws `ERR_CONFIG` on an option that is unknown, wrong, or contradicts another. */
export function checkOptions(options: PostgresOptions): Settings {
  checkKeys("postgres", options, ["schema", "pool", "pglite", "url", ...poolOptions]);
  const {
    schema = "postrider",
    pool,
    pglite,
    url,
    ...config
  } = options as Record<string, unknown> & PoolConfig;
  const settings = { schema: checkSchema(schema), pool: undefined, pglite: undefined, config };
  const others = [...(url === undefined ? [] : ["url"]), ...Object.keys(config)];
  if (pool !== undefined) {
    requireAlone("pool", pglite === undefined ? others : ["pglite"]);
    return { ...settings, pool: checkPool(pool) };
  }
  if (pglite !== undefined) {
    requireAlone("pglite", others);
    return { ...settings, pglite: checkPglite(pglite) };
  }
  if (config.max !== undefined) checkInteger("postgres max", config.max, 1, 10_000);
  if (url === undefined) return settings;
  if (config.connectionString !== undefined) {
    throw new ConfigurationError("ERR_CONFIG", 'postgres: give "url" or "connectionString", not both');
  }
  return { ...settings, config: { ...config, connectionString: checkUrl(url) } };
}

function checkSchema(schema: unknown): string {
  const name = checkString("postgres schema", schema, 63);
  if (/^[a-z_][a-z0-9_]*$/u.test(name) && !name.startsWith("pg_")) return name;
  throw new ConfigurationError(
    "ERR_CONFIG",
    `postgres schema must match ^[a-z_][a-z0-9_]{0,62}$ and not begin with pg_, got "${name}"`,
  );
}

function checkPool(pool: unknown): Pool {
  const { connect, query, totalCount } = pool as Partial<Pool>;
  if (typeof connect === "function" && typeof query === "function" && typeof totalCount === "number")
    return pool as Pool;
  throw new ConfigurationError(
    "ERR_CONFIG",
    'postgres pool must be a Pool of "pg": postgres({ pool: new Pool({ … }) })',
  );
}

function requireAlone(option: string, others: readonly string[]): void {
  if (others.length === 0) return;
  throw new ConfigurationError(
    "ERR_CONFIG",
    `postgres: "${others[0]}" has no effect beside "${option}"; set it where the ${option} is made`,
  );
}

function checkPglite(pglite: unknown): PgliteDatabase {
  const { waitReady, execProtocolRaw, _runExclusiveTransaction } = (pglite ?? {}) as Partial<PgliteDatabase>;
  if (
    waitReady !== undefined &&
    typeof execProtocolRaw === "function" &&
    typeof _runExclusiveTransaction === "function"
  )
    return pglite as PgliteDatabase;
  throw new ConfigurationError(
    "ERR_CONFIG",
    'postgres pglite must be a PGlite of "@electric-sql/pglite": postgres({ pglite: new PGlite() })',
  );
}

function checkUrl(url: unknown): string {
  const text = checkString("postgres url", url, 4_096);
  if (/^postgres(?:ql)?:\/\//u.test(text) && URL.canParse(text)) return text;
  // Without a host, for a socket: postgres:///database?host=/run/postgresql
  if (/^postgres(?:ql)?:\/\//u.test(text) && URL.canParse(text.replace("://", "://x"))) return text;
  throw new ConfigurationError(
    "ERR_CONFIG",
    `postgres url must be like postgres://user:password@host:5432/database, got "${redactUrl(text)}"`,
  );
}
