/** What SQLite's failures mean, said for the broker and for the store. */
import { MessagingError, StoreError, TransportError } from "../../src/spi.ts";

/** Primary result codes (sqlite.org/rescode.html); the low byte of an extended code. */
const result = {
  error: 1,
  busy: 5,
  readonly: 8,
  ioError: 10,
  corrupt: 11,
  full: 13,
  cannotOpen: 14,
  protocol: 15,
  tooBig: 18,
  constraint: 19,
  notDatabase: 26,
} as const;

/** A transaction that read before another connection wrote, and now wants to write: it can only begin anew. */
const busySnapshot = 517;

/** COMMIT failed. SQLite has rolled back; after an I/O error a crash may still bring the transaction back. */
export class CommitFailed extends Error {
  constructor(cause: unknown) {
    super("COMMIT failed", { cause });
  }
}

/** A write waited too long behind transactions of this very process. */
export class WaitedTooLong extends Error {}

/** The extended result code of an error of node:sqlite. */
export function resultCode(error: unknown): number | undefined {
  const code = (error as { readonly errcode?: unknown } | null | undefined)?.errcode;
  return typeof code === "number" ? code : undefined;
}

function primaryCode(error: unknown): number | undefined {
  const code = resultCode(error);
  return code === undefined ? undefined : code & 0xff;
}

/** Another connection is in the way for now; the same statement may succeed later. */
export function isBusy(error: unknown): boolean {
  const code = primaryCode(error);
  return code === result.busy || code === result.protocol;
}

/** The transaction can never write: what it read is out of date. */
export function isOutOfDate(error: unknown): boolean {
  return resultCode(error) === busySnapshot;
}

/** Whether the write may have taken effect although it failed. */
export function isUnknown(error: unknown): boolean {
  return error instanceof CommitFailed && primaryCode(error.cause) === result.ioError;
}

/** Why, what to do, and whether the same may work later. */
interface Explanation {
  readonly why: string;
  readonly retryable: boolean;
}

const explanations: Readonly<Record<number, Explanation>> = {
  [result.error]: {
    why: "its tables are not what they should be. If postrider's tables were changed by hand, undo it",
    retryable: false,
  },
  [result.busy]: { why: "another connection keeps it locked", retryable: true },
  [result.protocol]: { why: "another connection keeps it locked", retryable: true },
  [result.readonly]: {
    why: "it cannot be written. Give this process write access to the file and to its folder",
    retryable: false,
  },
  [result.ioError]: { why: "the disk failed", retryable: true },
  [result.corrupt]: {
    why: "it is damaged. Restore it from a copy, or move it away to start empty",
    retryable: false,
  },
  [result.full]: { why: "the disk is full", retryable: true },
  [result.cannotOpen]: {
    why: "it cannot be opened. Check that the path is a file, or may become one, in a folder this process may write to",
    retryable: false,
  },
  [result.tooBig]: { why: "the message is larger than SQLite takes", retryable: false },
  [result.constraint]: { why: "a constraint of the database was violated", retryable: false },
  [result.notDatabase]: {
    why: "it is not a SQLite database (or it is encrypted). Choose another path",
    retryable: false,
  },
};

function explain(error: unknown): Explanation & { readonly cause: unknown } {
  const cause = error instanceof CommitFailed ? error.cause : error;
  const known = explanations[primaryCode(cause) ?? -1];
  const said = cause instanceof Error ? cause.message : String(cause);
  // Of the file system (making the folder): a person has to change something.
  const isSystem = (cause as { readonly syscall?: unknown } | null | undefined)?.syscall !== undefined;
  if (known === undefined) return { why: said, retryable: !isSystem, cause };
  const code = resultCode(cause);
  return { ...known, why: `${known.why} (SQLite ${code}: ${said})`, cause };
}

/** The broker's error for a failed write or read. `what` is such as "publish" or "claim". */
export function brokerError(what: string, path: string, error: unknown): MessagingError {
  if (MessagingError.is(error)) return error;
  const { why, retryable, cause } = explain(error);
  const code = primaryCode(cause) === result.full ? "ERR_BROKER_FULL" : "ERR_BROKER";
  return new TransportError(code, `${what} failed on ${path}: ${why}`, { cause, retryable });
}

/** The broker's error when the file cannot be opened or prepared. */
export function connectError(path: string, error: unknown): MessagingError {
  if (MessagingError.is(error)) return error;
  const { why, retryable, cause } = explain(error);
  return new TransportError("ERR_CONNECT", `cannot use ${path}: ${why}`, { cause, retryable });
}

/** The store's error for whatever failed in the database. */
export function storeError(what: string, path: string, error: unknown): MessagingError {
  if (MessagingError.is(error)) return error;
  const { why, retryable, cause } = explain(error);
  return new StoreError("ERR_STORE", `${what} failed on ${path}: ${why}`, { cause, retryable });
}
