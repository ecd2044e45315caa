/** Errors of the server, the client and the network, in the library's own terms. */
import { ConfigurationError, MessagingError, TransportError, isTlsCode } from "../../src/spi.ts";

type TransportCode = ConstructorParameters<typeof TransportError>[0];

/** What an answer beginning with this word means. */
interface Meaning {
  readonly code: TransportCode;
  readonly retryable: boolean;
  readonly text: string;
}

const meanings: Readonly<Record<string, Meaning>> = {
  OOM: {
    code: "ERR_BROKER_FULL",
    retryable: true,
    text: "Redis has reached maxmemory. Let consumers catch up, or raise maxmemory.",
  },
  MISCONF: {
    code: "ERR_BROKER",
    retryable: true,
    text: "Redis cannot write its data to disk and refuses writes. Look at its log and its disk.",
  },
  READONLY: {
    code: "ERR_BROKER",
    retryable: true,
    text: "the server is a read-only replica. Connecting again, to find the primary.",
  },
  NOREPLICAS: {
    code: "ERR_BROKER",
    retryable: true,
    text: "fewer replicas are connected than min-replicas-to-write asks for.",
  },
  LOADING: { code: "ERR_BROKER", retryable: true, text: "Redis is still reading its data." },
  BUSY: { code: "ERR_BROKER", retryable: true, text: "Redis is busy with a script." },
  MASTERDOWN: { code: "ERR_BROKER", retryable: true, text: "the replica has lost its primary." },
  CLUSTERDOWN: { code: "ERR_BROKER", retryable: true, text: "the Redis cluster is down." },
  TRYAGAIN: { code: "ERR_BROKER", retryable: true, text: "the Redis cluster is moving the keys." },
  MOVED: {
    code: "ERR_DESTINATION",
    retryable: false,
    text: "the server is a node of a Redis cluster and does not have this topic. Connect to a single server or through a proxy.",
  },
  WRONGTYPE: {
    code: "ERR_TOPOLOGY",
    retryable: false,
    text: "a key of the topic exists and is not what it should be. Use another topic name or prefix, or remove that key.",
  },
  NOAUTH: {
    code: "ERR_AUTH",
    retryable: false,
    text: "Redis asks for a password. Give username and password.",
  },
  WRONGPASS: {
    code: "ERR_AUTH",
    retryable: false,
    text: "Redis refused username or password, or the user is disabled.",
  },
  NOPERM: {
    code: "ERR_AUTH",
    retryable: false,
    text: "the ACL of the user does not allow a command or a key that is needed.",
  },
  NOGROUP: { code: "ERR_DESTINATION", retryable: true, text: "the group has vanished; it is made again." },
  UNBLOCKED: { code: "ERR_DESTINATION", retryable: true, text: "the stream has vanished; it is made again." },
};

/** Texts without a word of their own. */
const texts: readonly (readonly [pattern: RegExp, meaning: Meaning])[] = [
  [
    /max number of clients/u,
    { code: "ERR_CONNECT", retryable: true, text: "Redis has no connection left (maxclients)." },
  ],
  [
    /DB index|SELECT is not allowed/u,
    { code: "ERR_CONNECT", retryable: false, text: "the database in the URL's path does not exist." },
  ],
  [
    /invalid password|called without any password|wrong number of arguments for 'auth'/u,
    { code: "ERR_AUTH", retryable: false, text: "Redis refused username or password." },
  ],
  [
    /unknown command/iu,
    {
      code: "ERR_BROKER",
      retryable: false,
      text: "the server does not know a command that is needed. Redis 6.2 or newer is.",
    },
  ],
];

/** The word that names a server's error, wherever a script has put it in the text; `undefined` for any other error. */
export function replyCode(error: unknown): string | undefined {
  if (!isReply(error)) return undefined;
  const found = /(?:^|[\s-])([A-Z]{3,})\b/gu;
  for (const [, word] of error.message.matchAll(found)) {
    if (word !== undefined && Object.hasOwn(meanings, word)) return word;
  }
  return /^([A-Z]+)/u.exec(error.message)?.[1];
}

/** Whether the server itself said so, as against a connection that broke. */
export function isReply(error: unknown): error is Error {
  return error instanceof Error && error.name === "ReplyError";
}

/** A request that did not succeed. */
export class RequestError extends TransportError {
  /** The server may have carried it out: it was sent, and no answer came. */
  readonly mayHaveRun: boolean;
  /** First word of the server's answer. */
  readonly reply: string | undefined;

  constructor(
    code: TransportCode,
    message: string,
    details: { readonly retryable: boolean; readonly mayHaveRun: boolean; readonly cause?: unknown },
  ) {
    super(code, message, { ...details, cause: withoutArguments(details.cause) });
    this.mayHaveRun = details.mayHaveRun;
    this.reply = replyCode(details.cause);
  }
}

/** What a request failed of. `sent` is `false` when it surely never left. */
export function requestError(what: string, cause: unknown, sent = true): RequestError {
  if (cause instanceof RequestError) return cause;
  if (isReply(cause)) return replyError(what, cause);
  const text = `${what} failed: ${textOf(cause)}. ${sent ? "Redis may have carried it out." : "It was not sent."}`;
  return new RequestError("ERR_CONNECTION_LOST", text, { cause, retryable: true, mayHaveRun: sent });
}

function replyError(what: string, cause: Error): RequestError {
  const word = replyCode(cause);
  const meaning =
    (word === undefined ? undefined : meanings[word]) ??
    texts.find(([pattern]) => pattern.test(cause.message))?.[1];
  const { code, retryable, text } = meaning ?? { code: "ERR_BROKER", retryable: true, text: undefined };
  const reason = text ?? `${cause.message.slice(0, 300)}.`;
  // Known refusals come before anything is written; a script that failed otherwise may have written something.
  return new RequestError(code, `${what} failed: ${reason}`, {
    cause,
    retryable,
    mayHaveRun: meaning === undefined,
  });
}

/**
 * Why a connection could not be made. `ERR_AUTH` and `ERR_TLS` are for good. A Redis port without TLS just does not answer to
 * it, so that is not among them.
 */
export function connectError(target: string, cause: unknown, overTls = false): MessagingError {
  if (MessagingError.is(cause)) return cause;
  withoutArguments(cause);
  const what = `connecting to Redis at ${target}`;
  if (isReply(cause)) {
    const { code, message, retryable } = replyError(what, cause);
    const known = code === "ERR_BROKER" || code === "ERR_BROKER_FULL" ? "ERR_CONNECT" : code;
    return new TransportError(known as TransportCode, message, { cause, retryable });
  }
  const code = (cause as { readonly code?: unknown } | undefined)?.code;
  if (isTlsCode(code)) {
    const text = `${what} failed: TLS: ${textOf(cause)}. Check the certificate, and tls.ca; rediss:// needs a TLS port.`;
    return new TransportError("ERR_TLS", text, { cause });
  }
  const advice = overTls ? "Check that it runs, and that the port is one for TLS." : "Check that it runs.";
  return new TransportError("ERR_CONNECT", `${what} failed: ${textOf(cause)}. ${advice}`, { cause });
}

/** For servers that lack what the adapter is built on. */
export function tooOld(version: string): ConfigurationError {
  return new ConfigurationError(
    "ERR_CAPABILITY",
    `Redis ${version} is too old: XAUTOCLAIM is needed. Use Redis 6.2 or newer, or Valkey.`,
  );
}

/** ioredis puts the command on its errors, arguments included: the password of an AUTH, the body of a message. */
function withoutArguments(error: unknown): unknown {
  if (error instanceof Error && "command" in error) delete error.command;
  return error;
}

/** An error's text without the final full stop. */
export function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return textOf(error.errors[0]);
  return (error instanceof Error ? error.message : String(error)).replace(/\.$/u, "");
}
