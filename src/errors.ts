/**
 * Every error the library throws or reports, in one table and nine classes.
 *
 * A `code` says what happened, `retryable` whether the same call may succeed later, `cause` is always the
 * driver's own error. Messages read "what failed: why. What to do."; they carry names and ids, never payloads
 * or credentials.
 */

/** Every code with its default `retryable`; a table-driven test checks each class against it. @internal */
export const errorCodes = {
  ERR_CONFIG: false,
  ERR_CAPABILITY: false,
  ERR_DEPENDENCY: false,
  ERR_DELAY: false,
  ERR_NOT_STARTED: false,
  ERR_DRAINING: false,
  ERR_CLOSED: false,
  ERR_ENCODE: false,
  ERR_DECODE: false,
  ERR_VALIDATION: false,
  ERR_HEADER: false,
  ERR_ID: false,
  ERR_TOO_LARGE: false,
  ERR_CONNECT: true,
  ERR_CONNECTION_LOST: true,
  ERR_AUTH: false,
  ERR_TLS: false,
  ERR_BROKER: true,
  ERR_BROKER_FULL: true,
  ERR_TOPOLOGY: false,
  ERR_DESTINATION: false,
  ERR_PUBLISH: true,
  ERR_NO_ROUTE: false,
  ERR_BACKLOG: true,
  ERR_TIMEOUT: true,
  ERR_SETTLE: false,
  ERR_STORE: true,
  ERR_SCHEMA: false,
  ERR_TX: false,
  ERR_CLAIM_HELD: true,
  ERR_LEASE_LOST: true,
  ERR_NON_RETRYABLE: false,
} as const;

/** One of the library's error codes. Stable: match on this, not on the message. */
export type ErrorCode = keyof typeof errorCodes;

/** What every error of the library can be given besides its code and message. */
export interface ErrorDetails {
  /** The driver's or user's own error. */
  readonly cause?: unknown;
  /** Overrides the code's default. */
  readonly retryable?: boolean;
}

const brand = Symbol.for("postrider.error");

/** Base of every error the library throws. `MessagingError.is(e)` also recognises one from a second copy of the package. */
export class MessagingError extends Error {
  /** Whether the same call may succeed later without a change of code or configuration. */
  readonly retryable: boolean;
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.retryable = details.retryable ?? errorCodes[code];
    Object.defineProperty(this, brand, { value: true });
  }

  /** Whether `error` is one of the library's errors, whichever copy of the package made it. */
  static is(error: unknown): error is MessagingError {
    try {
      return typeof error === "object" && error !== null && brand in error;
    } catch {
      // A proxy, revoked or hostile: whatever it is, it is none of ours.
      return false;
    }
  }
}

/** A mistake in code or configuration: an option, a name, a missing dependency, an unsupported capability. */
export class ConfigurationError extends MessagingError {
  constructor(
    code: "ERR_CONFIG" | "ERR_CAPABILITY" | "ERR_DEPENDENCY" | "ERR_DELAY",
    message: string,
    details?: ErrorDetails,
  ) {
    super(code, message, details);
    this.name = "ConfigurationError";
  }
}

/** A call made in the wrong state, such as publishing after `close()`. */
export class LifecycleError extends MessagingError {
  constructor(
    code: "ERR_NOT_STARTED" | "ERR_DRAINING" | "ERR_CLOSED",
    message: string,
    details?: ErrorDetails,
  ) {
    super(code, message, details);
    this.name = "LifecycleError";
  }
}

/** A message that cannot be turned into bytes or back: the sender's call rejects, the receiver dead-letters it. */
export class CodecError extends MessagingError {
  constructor(
    code: "ERR_ENCODE" | "ERR_DECODE" | "ERR_VALIDATION" | "ERR_HEADER" | "ERR_ID" | "ERR_TOO_LARGE",
    message: string,
    details?: ErrorDetails,
  ) {
    super(code, message, details);
    this.name = "CodecError";
  }
}

/** The connection to the broker, or the broker itself, failed. */
export class TransportError extends MessagingError {
  constructor(
    code:
      | "ERR_CONNECT"
      | "ERR_CONNECTION_LOST"
      | "ERR_AUTH"
      | "ERR_TLS"
      | "ERR_BROKER"
      | "ERR_BROKER_FULL"
      | "ERR_TOPOLOGY"
      | "ERR_DESTINATION",
    message: string,
    details?: ErrorDetails,
  ) {
    super(code, message, details);
    this.name = "TransportError";
  }
}

/**
 * A publish that was not confirmed. `accepted: "no"` means the broker surely does not have the message;
 * `"unknown"` means it may have it: publish again with the same `id` (and let the consumer's inbox remove
 * the duplicate), never with a new one.
 */
export class PublishError extends MessagingError {
  readonly accepted: "no" | "unknown";
  /** Id of the message, to be used again when the publish is repeated. */
  readonly messageId: string;

  constructor(
    code: ErrorCode,
    message: string,
    details: ErrorDetails & { readonly accepted: "no" | "unknown"; readonly messageId: string },
  ) {
    super(code, message, details);
    this.name = "PublishError";
    this.accepted = details.accepted;
    this.messageId = details.messageId;
  }
}

/** A delivery could not be settled. The broker delivers it again; it is not a failure of the handler. */
export class SettleError extends MessagingError {
  constructor(message: string, details?: ErrorDetails) {
    super("ERR_SETTLE", message, details);
    this.name = "SettleError";
  }
}

/** The database behind outbox, inbox or idempotency failed, or was used wrongly (`ERR_TX`, `ERR_SCHEMA`). */
export class StoreError extends MessagingError {
  constructor(
    code: "ERR_STORE" | "ERR_SCHEMA" | "ERR_TX" | "ERR_CLAIM_HELD" | "ERR_LEASE_LOST",
    message: string,
    details?: ErrorDetails,
  ) {
    super(code, message, details);
    this.name = "StoreError";
  }
}

/** A handler ran longer than the consumer's `timeout`. Its signal was aborted; the attempt counts as failed. */
export class HandlerTimeoutError extends MessagingError {
  constructor(message: string, details?: ErrorDetails) {
    super("ERR_TIMEOUT", message, details);
    this.name = "HandlerTimeoutError";
  }
}

/**
 * Thrown by a handler to say that no retry can help: the message is dead-lettered at once.
 *
 * @example
 * throw new NonRetryableError("no such customer", { cause: error });
 */
export class NonRetryableError extends MessagingError {
  constructor(message: string, details?: Pick<ErrorDetails, "cause">) {
    super("ERR_NON_RETRYABLE", message, details);
    this.name = "NonRetryableError";
  }
}
