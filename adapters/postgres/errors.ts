/** The driver's and the server's errors in the library's taxonomy. */
import { MessagingError, StoreError } from "../../src/spi.ts";

/** SQLSTATE classes after which the same statement may succeed: connection, resources, conflicts, operators, I/O, bugs. */
const retryableClasses: ReadonlySet<string> = new Set(["08", "40", "53", "55", "57", "58", "XX"]);

/** What an error means here and what helps. */
interface Reading {
  readonly code?: "ERR_SCHEMA" | "ERR_TX";
  readonly advice?: string;
}

const missing: Reading = {
  code: "ERR_SCHEMA",
  advice: "The tables are missing or old: run bus.migrate() (or `postrider migrate up`).",
};
const unprepared: Reading = {
  advice: "A pooler, or DISCARD or DEALLOCATE, has taken prepared statements away from this connection.",
};

/** What pg-pool says when no connection became free in time. */
const exhausted = "timeout exceeded when trying to connect";

/** By SQLSTATE, or by the text of an error of the driver. */
const readings: Readonly<Record<string, Reading>> = {
  [exhausted]: { advice: "All connections of the pool are in use: raise its max, or lower the concurrency." },
  "25001": { code: "ERR_TX" },
  "25006": { code: "ERR_TX", advice: "It must be able to write: not READ ONLY, not on a standby." },
  "25P01": { code: "ERR_TX", advice: "There is no open transaction." },
  "25P02": {
    code: "ERR_TX",
    advice: "An earlier statement failed: roll back, or guard what may fail with a savepoint.",
  },
  "26000": unprepared,
  "28000": { advice: "Check user, password and pg_hba.conf." },
  "28P01": { advice: "Check user and password." },
  "3D000": { advice: "Create the database, or correct the URL." },
  "3F000": missing,
  "42501": { advice: "Grant the user the right." },
  "42703": missing,
  "42P01": missing,
  "42P05": unprepared,
  "53200": {
    advice: "Too many ordering keys in one transaction? Raise max_locks_per_transaction, or split it.",
  },
  "57014": { advice: "Raise statement_timeout if it is set too low." },
  "57P03": { advice: "It is starting up or shutting down." },
};

/** Errors of the driver itself that no later try can heal. They have no SQLSTATE. */
const fatalText = /SSL|certificate|TLS|SASL|password must be|Unknown auth/iu;
const fatalCode = /^(?:ERR_TLS|ERR_SSL|ERR_INVALID|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO)/u;

/** `what failed: why. What to do.`, as a `StoreError`; one of ours is passed through. */
export function toStoreError(what: string, cause: unknown): MessagingError {
  if (MessagingError.is(cause)) return cause;
  const state = stateOf(cause);
  const reading = readings[state ?? textOf(cause)] ?? {};
  const text = `${what}: ${textOf(cause)}${state === undefined ? "" : ` (${state})`}`;
  const advice = reading.advice === undefined ? "" : `. ${reading.advice}`;
  return new StoreError(reading.code ?? "ERR_STORE", text + advice, {
    cause,
    retryable: reading.code === undefined && isRetryable(cause, state),
  });
}

/** Whether the connection, not the statement, is what failed: the database cannot be reached, or not by us. */
export function isConnectionFailure(cause: unknown): boolean {
  const state = stateOf(cause);
  if (state === undefined) return !MessagingError.is(cause) && textOf(cause) !== exhausted;
  return /^(?:08|28|57P0)/u.test(state) || state === "3D000" || state === "53300";
}

/** A table or schema that is not there. */
export function isMissing(cause: unknown): boolean {
  const state = stateOf(cause);
  return state === "42P01" || state === "3F000";
}

/** The SQLSTATE of a server's error; the driver's own errors have none. */
function stateOf(cause: unknown): string | undefined {
  const code = (cause as { readonly code?: unknown } | null)?.code;
  return typeof code === "string" && /^[0-9A-Z]{5}$/u.test(code) && "severity" in (cause as object)
    ? code
    : undefined;
}

function isRetryable(cause: unknown, state: string | undefined): boolean {
  if (state !== undefined) return retryableClasses.has(state.slice(0, 2));
  const code = (cause as { readonly code?: unknown } | null)?.code;
  return !fatalText.test(textOf(cause)) && !(typeof code === "string" && fatalCode.test(code));
}

/** Node reports a host with several addresses as an `AggregateError` with an empty message. */
function textOf(cause: unknown): string {
  if (cause instanceof AggregateError && cause.message === "") return cause.errors.map(textOf).join("; ");
  return cause instanceof Error ? cause.message : String(cause);
}
