/** The driver's and the server's errors in the library's taxonomy. */
import { MessagingError, StoreError } from "../../src/spi.ts";

/** What a server's error means here and what helps. */
interface Reading {
  readonly code?: "ERR_SCHEMA" | "ERR_TX";
  /** The same statement may succeed later. */
  readonly retryable?: true;
  readonly advice?: string;
}

const missing: Reading = {
  code: "ERR_SCHEMA",
  advice: "The tables are missing or old: run bus.migrate() (or `postrider migrate up`).",
};
const denied: Reading = { advice: "Grant the user the right." };
const passing: Reading = { retryable: true };
const readOnlyServer: Reading = { retryable: true, advice: "It must be able to write: not a replica." };
const locked: Reading = {
  retryable: true,
  advice: "Another transaction holds the row, or the ordering key, for longer than innodb_lock_wait_timeout.",
};
const tooSlow: Reading = { retryable: true, advice: "Raise the limit on statements if it is set too low." };

/** By number of the server's error. */
const readings: Readonly<Record<number, Reading>> = {
  1021: passing,
  1040: { retryable: true, advice: "Raise max_connections, or make the pools smaller." },
  1044: denied,
  1045: { advice: "Check user and password." },
  1047: passing,
  1049: { advice: "Create the database, or correct the URL." },
  1053: passing,
  1054: missing,
  1114: passing,
  1130: { advice: "Grant the user the right to connect from this host." },
  1142: denied,
  1143: denied,
  1146: missing,
  1152: passing,
  1153: { advice: "Raise max_allowed_packet." },
  1158: passing,
  1159: passing,
  1160: passing,
  1161: passing,
  1180: passing,
  1203: { retryable: true, advice: "Raise max_user_connections, or make the pools smaller." },
  1205: locked,
  1213: passing,
  1226: passing,
  1290: readOnlyServer,
  1317: passing,
  1665: { advice: "Set binlog_format to ROW or MIXED." },
  1792: { code: "ERR_TX", advice: "It must be able to write: not READ ONLY." },
  1836: readOnlyServer,
  1927: passing,
  1969: tooSlow,
  3024: tooSlow,
  3572: locked,
};

/** What `mysql2` itself says, by the beginning of its text. */
const closedConnection = "Can't add new command when connection is in closed state";
const exhausted: ReadonlySet<string> = new Set(["Queue limit reached.", "No connections available."]);

/** Errors of the driver itself that no later try can heal. */
const fatalText = /SSL|certificate|TLS|auth.*plugin|Unknown charset/iu;
const fatalCode = /^(?:ERR_TLS|ERR_SSL|ERR_INVALID|HANDSHAKE_|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|AUTH_)/u;

/** `what failed: why. What to do.`, as a `StoreError`; one of ours is passed through. */
export function toStoreError(what: string, cause: unknown): MessagingError {
  if (MessagingError.is(cause)) return cause;
  const number = numberOf(cause);
  const { code = "ERR_STORE", advice, retryable = false } = readingOf(cause, number);
  const text = `${what}: ${textOf(cause)}${number === undefined ? "" : ` (${number})`}`;
  return new StoreError(code, advice === undefined ? text : `${text.replace(/\.$/u, "")}. ${advice}`, {
    cause,
    retryable,
  });
}

function readingOf(cause: unknown, number: number | undefined): Reading {
  if (number !== undefined) return readings[number] ?? {};
  const text = textOf(cause);
  if (exhausted.has(text)) {
    return {
      retryable: true,
      advice: "All connections of the pool are in use: raise its connectionLimit, or lower the concurrency.",
    };
  }
  const code = (cause as { readonly code?: unknown } | null)?.code;
  const fatal = fatalText.test(text) || (typeof code === "string" && fatalCode.test(code));
  return fatal ? {} : { retryable: true };
}

/** Whether the connection, not the statement, is what failed: the database cannot be reached, or not by us. */
export function isConnectionFailure(cause: unknown): boolean {
  if (MessagingError.is(cause)) return false;
  const number = numberOf(cause);
  if (number === undefined) return !exhausted.has(textOf(cause));
  return [1040, 1044, 1045, 1047, 1049, 1053, 1129, 1130, 1152, 1203, 1927].includes(number);
}

/** Somebody else has the row. (MariaDB answers NOWAIT with 1205, MySQL with 3572.) */
export function isLocked(cause: unknown): boolean {
  return [1205, 3572].includes(numberOf(cause) ?? 0);
}

export function isDuplicate(cause: unknown): boolean {
  return numberOf(cause) === 1062;
}

/** A column that is to be added is there. */
export function isColumnThere(cause: unknown): boolean {
  return numberOf(cause) === 1060;
}

/** The server has rolled the whole transaction back; statements that follow would take effect one by one. */
export function isDeadlock(cause: unknown): boolean {
  return numberOf(cause) === 1213;
}

/** A table that is not there. */
export function isMissing(cause: unknown): boolean {
  return numberOf(cause) === 1146;
}

/** A table or database that is not there, or not for this user. */
export function isOutOfReach(cause: unknown): boolean {
  return [1044, 1049, 1142, 1146].includes(numberOf(cause) ?? 0);
}

/** The connection was closed before it was asked. */
export function isClosed(cause: unknown): boolean {
  return textOf(cause).startsWith(closedConnection);
}

/** The number of a server's error; the driver's own errors have none. */
function numberOf(cause: unknown): number | undefined {
  const { errno, sqlState } = (cause ?? {}) as { readonly errno?: unknown; readonly sqlState?: unknown };
  return typeof errno === "number" && errno > 0 && typeof sqlState === "string" ? errno : undefined;
}

/** Node reports a host with several addresses as an `AggregateError` with an empty message. */
function textOf(cause: unknown): string {
  if (cause instanceof AggregateError && cause.message === "") return cause.errors.map(textOf).join("; ");
  return cause instanceof Error ? cause.message : String(cause);
}
