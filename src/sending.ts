/** One message on its way to the broker, and what a failure of it is called. */
import type { OutgoingMessage } from "./adapter.ts";
import { MessagingError, PublishError } from "./errors.ts";
import { textOf } from "./inspect.ts";

export class Sending {
  readonly outgoing: OutgoingMessage;
  readonly timeoutMs: number;
  /** Monotonic. */
  readonly deadline: number;
  /** An attempt is with the adapter. */
  handedOver = false;
  /** An attempt ended without an answer. */
  unanswered = false;
  /** Why the latest attempt failed. */
  lastError: MessagingError | undefined;
  /** Nobody waits for it any more: what has not been handed over must not be. */
  isAbandoned = false;
  #abandoned: AbortController | undefined;
  #reject: (why: PublishError) => void = () => undefined;

  constructor(outgoing: OutgoingMessage, now: number, timeoutMs: number) {
    this.outgoing = outgoing;
    this.timeoutMs = timeoutMs;
    this.deadline = now + timeoutMs;
  }

  get id(): string {
    return this.outgoing.message.attributes["id"] ?? "";
  }

  /** Aborts when it is abandoned. Made only for who asks: nearly all messages are confirmed at once. */
  get abandoned(): AbortSignal {
    this.#abandoned ??= new AbortController();
    return this.#abandoned.signal;
  }

  /** What the attempts come to, unless it is abandoned before. Rejects with a `PublishError`. */
  until<T>(attempts: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#reject = reject;
      attempts.then(resolve, (cause: unknown) => reject(publishFailed(this, cause)));
    });
  }

  abandon(why: PublishError): void {
    this.isAbandoned = true;
    this.#reject(why);
    this.#abandoned?.abort(why);
  }

  /** Whether the broker may have it. */
  get accepted(): "unknown" | "no" {
    return this.handedOver || this.unanswered ? "unknown" : "no";
  }
}

/** The caller's signal ended the wait: `publish` rejects with the signal's reason, `publishAll` says what is known. */
export class AbandonedPublish extends PublishError {
  readonly reason: unknown;
  constructor(sending: Sending, reason: unknown) {
    super("ERR_PUBLISH", `publish of ${nameOf(sending)} was given up: ${textOf(reason)}`, {
      cause: reason,
      accepted: sending.accepted,
      messageId: sending.id,
    });
    this.reason = reason;
  }
}

export function timedOut(sending: Sending): PublishError {
  const { accepted, lastError, id: messageId, timeoutMs } = sending;
  const advice =
    accepted === "unknown"
      ? "The broker may have the message: publish again with the same id."
      : "The broker does not have the message.";
  const last = lastError === undefined ? "" : ` Last error: ${lastError.message}`;
  const text = `publish of ${nameOf(sending)} was not confirmed within ${timeoutMs} ms. ${advice}${last}`;
  return new PublishError("ERR_TIMEOUT", text, { cause: lastError, accepted, messageId });
}

export function publishFailed(sending: Sending, cause: unknown): PublishError {
  const known = MessagingError.is(cause) ? cause : undefined;
  return new PublishError(
    known?.code ?? "ERR_PUBLISH",
    `publish of ${nameOf(sending)} failed: ${textOf(cause)}`,
    {
      cause,
      accepted: sending.accepted,
      messageId: sending.id,
      ...(known === undefined ? {} : { retryable: known.retryable }),
    },
  );
}

function nameOf({ id, outgoing }: Sending): string {
  return `message \`${id}\` to topic \`${outgoing.destination.topic.name}\``;
}
