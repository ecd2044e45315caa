/**
 * The one table of reserved header names, and the rules for the user's own. Header maps inherit nothing, so a
 * header called `constructor` or `toString` is only a name.
 */
import { CodecError } from "./errors.ts";
import { isPlainObject, show } from "./inspect.ts";

/** Headers of a message: text by name. Made by `headerMap`, so nothing is inherited. */
export type Headers = Readonly<Record<string, string>>;

/** A change to headers: `undefined` removes the header. */
export type HeaderPatch = Readonly<Record<string, string | undefined>>;

/** What we add to a message. Everything of ours begins with `pr-`. */
export const header = {
  /** Failed attempts so far; absent is 0. */
  failures: "pr-failures",
  /** Hand-overs of earlier copies that ended without a word (crashes, lost connections); absent is 0. */
  redeliveries: "pr-redeliveries",
  /** Epoch milliseconds of the first failed attempt. */
  firstFailureAt: "pr-first-failure-at",
  /** Epoch milliseconds before which a delayed message must not be handled. */
  notBefore: "pr-not-before",
  /** Where a message was first read: `<topic>/<partition>@<position>`, as the broker counts. */
  position: "pr-position",
  /** How often the message was redriven from the dead letters. */
  redrives: "pr-redrives",
  /** Why a message was dead-lettered; see `DeadLetterReason`. */
  reason: "pr-reason",
  /** Attempts made before the message was dead-lettered. */
  attempts: "pr-attempts",
  group: "pr-group",
  errorName: "pr-error-name",
  errorMessage: "pr-error-message",
  errorCode: "pr-error-code",
  /** Epoch milliseconds of the dead-lettering. */
  deadLetteredAt: "pr-dead-lettered-at",
  /** Version of the library that wrote the dead letter. */
  version: "pr-version",
} as const;

/** Headers that exist only on a dead letter; redriving removes them. */
export const deadLetterHeaders: readonly string[] = [
  header.reason,
  header.attempts,
  header.group,
  header.errorName,
  header.errorMessage,
  header.errorCode,
  header.deadLetteredAt,
  header.version,
];

/** Trace context travels as CloudEvents extensions and is shown as headers. */
export const traceHeaders: readonly string[] = ["traceparent", "tracestate"];

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const reservedPattern =
  /^(?:pr-|ce[_-]|cloudevents|content-type$|x-(?:first-|last-)?death|x-delivery-count|x-acquired-count)/i;
const valueLimit = 8 * 1024;
const totalLimit = 32 * 1024;

/**
 * Header maps inherit from an empty object, and that from nothing. Without any prototype they would be the same to users, but
 * V8 makes such an object a hash table, which is several times slower to fill and to walk through.
 */
const HeaderMap = function HeaderMap() {} as unknown as { new (): Record<string, string>; prototype: object };
HeaderMap.prototype = Object.freeze(Object.create(null) as object);

/** A map that inherits nothing, from another one or from pairs. */
export function headerMap(from: Iterable<readonly [string, string]> | Headers = []): Record<string, string> {
  const map = new HeaderMap();
  if (Symbol.iterator in from) for (const [name, value] of from) map[name] = value;
  else for (const name of Object.keys(from)) map[name] = from[name] as string;
  return map;
}

/** `headers` with `patch` applied, as a new map. */
export function patchHeaders(headers: Headers, patch: HeaderPatch): Record<string, string> {
  const map = headerMap(headers);
  for (const [name, value] of Object.entries(patch)) {
    if (value === undefined) delete map[name];
    else map[name] = value;
  }
  return map;
}

/**
 * The user's headers, copied. Throws `CodecError` `ERR_HEADER` on a name that is reserved or not
 * `A-Z a-z 0-9 . _ -`, a value that is no text or above 8 KiB, or more than 32 KiB in all.
 */
export function checkHeaders(headers: unknown): Record<string, string> {
  const map = headerMap();
  if (headers === undefined) return map;
  if (!isPlainObject(headers)) {
    throw new CodecError("ERR_HEADER", `headers must be a plain object of strings, got ${show(headers)}`);
  }
  let total = 0;
  for (const [name, value] of Object.entries(headers)) {
    checkHeaderName(name);
    map[name] = checkHeaderValue(name, value);
    total += name.length + Buffer.byteLength(map[name]);
  }
  if (total > totalLimit) {
    throw new CodecError(
      "ERR_HEADER",
      `headers take ${total} bytes, more than ${totalLimit}; put data into the payload`,
    );
  }
  return map;
}

function checkHeaderName(name: string): void {
  if (!namePattern.test(name)) {
    throw new CodecError("ERR_HEADER", `header name ${show(name)} must be 1..63 of A-Z a-z 0-9 . _ -`);
  }
  if (reservedPattern.test(name)) {
    throw new CodecError("ERR_HEADER", `header name "${name}" is reserved`);
  }
}

function checkHeaderValue(name: string, value: unknown): string {
  if (typeof value !== "string") {
    throw new CodecError("ERR_HEADER", `header "${name}" must be a string, got ${show(value)}`);
  }
  const size = Buffer.byteLength(value);
  if (size > valueLimit) {
    throw new CodecError("ERR_HEADER", `header "${name}" is ${size} bytes, more than ${valueLimit}`);
  }
  // oxlint-disable-next-line no-control-regex -- control characters are what is refused
  if (/[\u0000-\u001f\u007f]/u.test(value) || !value.isWellFormed()) {
    throw new CodecError(
      "ERR_HEADER",
      `header "${name}" has control characters or is not well-formed UTF-16`,
    );
  }
  return value;
}

/** A count written by us, or forged by somebody else: garbage is 0, too much is clamped. */
export function headerCount(headers: Headers, name: string, max = 1_000_000): number {
  const value = Number(headers[name]);
  return Number.isInteger(value) && value > 0 ? Math.min(value, max) : 0;
}

/** A time written by us in epoch milliseconds; anything else is `undefined`. */
export function headerTime(headers: Headers, name: string): number | undefined {
  const value = Number(headers[name]);
  return headers[name] !== undefined && Number.isFinite(value) && value > 0 && value < 8.64e15
    ? value
    : undefined;
}
