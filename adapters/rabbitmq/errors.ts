/** Every error of amqplib, the network and the server, mapped to the library's own. Never shows a URL or a credential. */
import { LifecycleError, MessagingError, PublishError, TransportError, isTlsCode } from "../../src/spi.ts";

interface Failure {
  readonly code?: unknown;
  readonly message?: unknown;
}

/** What is wrong with a certificate, and what helps. */
const certificateHints: Readonly<Record<string, string>> = {
  SELF_SIGNED_CERT_IN_CHAIN: "Give the CA's certificate as `tls.ca`.",
  DEPTH_ZERO_SELF_SIGNED_CERT: "Give the server's certificate as `tls.ca`.",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "Give the CA's certificate, with its intermediates, as `tls.ca`.",
  UNABLE_TO_GET_ISSUER_CERT: "Give the CA's certificate as `tls.ca`.",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "Give the CA's certificate as `tls.ca`.",
  CERT_HAS_EXPIRED: "The certificate has expired: renew it.",
  CERT_NOT_YET_VALID: "The certificate is not valid yet: check the clocks.",
  ERR_TLS_CERT_ALTNAME_INVALID:
    "The certificate is for another host: use that name in the URL, or `tls.servername`.",
  ERR_SSL_WRONG_VERSION_NUMBER: "This port does not speak TLS: use amqp://, or the server's TLS port.",
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    "The server asks for a client certificate: give `tls.cert` and `tls.key`.",
};

/** Why no connection came about. `ERR_AUTH` and `ERR_TLS` are final, the rest may pass. */
export function connectError(cause: unknown, address: string, vhost: string): MessagingError {
  if (MessagingError.is(cause)) return cause;
  const code = codeOf(cause);
  const text = textOf(cause);
  const where = `RabbitMQ at ${address}`;
  if (text.includes("ACCESS-REFUSED") || text.includes("ACCESS_REFUSED")) {
    return new TransportError(
      "ERR_AUTH",
      `${where} refused the login: wrong user or password, or this user may not log in from here`,
      { cause },
    );
  }
  if (text.startsWith("SASL mechanism"))
    return new TransportError("ERR_AUTH", `${where}: ${text}. Choose another \`auth\`.`, { cause });
  if (isTlsCode(code)) {
    const hint = certificateHints[code] ?? "Check `tls` and the server's certificate.";
    return new TransportError("ERR_TLS", `no secure connection to ${where}: ${code}. ${hint}`, { cause });
  }
  // amqplib says only which method came (0.10 to 2.3): the server closes instead of opening the virtual host.
  if (text.startsWith("Expected ConnectionOpenOk; got <ConnectionClose")) {
    return new TransportError(
      "ERR_CONNECT",
      `${where} refused the virtual host \`${vhost}\`: it does not exist, is not up yet, or this user may not use it. Check the path of the URL.`,
      { cause },
    );
  }
  return new TransportError("ERR_CONNECT", `cannot connect to ${where}: ${reasonOf(code, text)}`, { cause });
}

function reasonOf(code: string, text: string): string {
  switch (code) {
    case "ECONNREFUSED":
      return "ECONNREFUSED. Is it running, and is the port right?";
    case "ENOTFOUND":
      return "ENOTFOUND. The host name is not known.";
    case "ECONNRESET":
      return "ECONNRESET. A port for TLS needs amqps://.";
    case "":
      return text;
    default:
      return text.includes(code) ? text : `${code} ${text}`.trim();
  }
}

/** A connection, or one of its channels, has ended; what was under way on it is undecided. */
export function connectionLost(cause: unknown, what: string): MessagingError {
  if (MessagingError.is(cause)) return cause;
  const why = cause === undefined || cause === null ? "" : `: ${textOf(cause)}`;
  return new TransportError("ERR_CONNECTION_LOST", `${what} was lost${why}`, { cause });
}

/** Why the server closed a channel, or refused what was asked on it. */
export function channelError(cause: unknown, what: string): MessagingError {
  if (MessagingError.is(cause)) return cause;
  const text = textOf(cause);
  switch ((cause as Failure | null | undefined)?.code) {
    case 403:
      return new TransportError("ERR_AUTH", `${what}: ${serverText(text)}. Give the user that permission.`, {
        cause,
      });
    case 404:
      return new TransportError("ERR_DESTINATION", `${what}: ${serverText(text)}`, {
        cause,
        retryable: true,
      });
    case 405:
    case 406:
      // Also said of a message that is too large or was held too long.
      if (!/RESOURCE_LOCKED|inequivalent arg|invalid arg/u.test(text))
        return new TransportError("ERR_BROKER", `${what}: ${serverText(text)}`, { cause });
      return new TransportError(
        "ERR_TOPOLOGY",
        `${what}: ${serverText(text)}. It was made with other settings: remove it when it is empty, or use another name or prefix.`,
        { cause },
      );
    case 311:
    case 501:
    case 502:
    case 503:
    case 504:
    case 505:
    case 540:
    case 541:
      return new TransportError("ERR_BROKER", `${what}: ${serverText(text)}`, { cause });
    default:
      return connectionLost(cause, `the channel of ${what}`);
  }
}

/** What the server said, without amqplib's words around it. */
function serverText(text: string): string {
  return /with message "(.*)"$/su.exec(text)?.[1] ?? text;
}

export function noRoute(messageId: string, topic: string): MessagingError {
  return new PublishError(
    "ERR_NO_ROUTE",
    `no group receives topic \`${topic}\`: the message would be lost. Declare a group first, or publish with requireRoute: false.`,
    { accepted: "no", messageId },
  );
}

export function queueGone(queue: string): MessagingError {
  return new TransportError("ERR_DESTINATION", `queue \`${queue}\` was not there; it is made again`, {
    retryable: true,
  });
}

export function brokerFull(why: string): MessagingError {
  return new TransportError("ERR_BROKER_FULL", `RabbitMQ takes no messages now: ${why}`);
}

/** The message cannot be written in AMQP at all. */
export function unwritable(messageId: string, why: string, cause?: unknown): MessagingError {
  return new PublishError("ERR_HEADER", why, { cause, retryable: false, accepted: "no", messageId });
}

export function unconfirmed(messageId: string, destination: string, ms: number): MessagingError {
  return new PublishError(
    "ERR_TIMEOUT",
    `RabbitMQ did not confirm message \`${messageId}\` to \`${destination}\` within ${Math.round(ms)} ms. A queue behind it may have lost its leader.`,
    { accepted: "unknown", messageId },
  );
}

export function closed(): MessagingError {
  return new LifecycleError("ERR_CLOSED", "the RabbitMQ adapter is closed");
}

function codeOf(error: unknown): string {
  const code = (error as Failure | null | undefined)?.code;
  return typeof code === "string" ? code : "";
}

function textOf(error: unknown): string {
  const text = (error as Failure | null | undefined)?.message;
  return typeof text === "string" && text !== "" ? text : String(error);
}
