/** What a handler is given besides the payload. */
import type { Logger } from "./events.ts";
import type { Message } from "./message.ts";
import type { Publisher } from "./publisher.ts";

export interface HandlerContext<Payload = unknown, Tx = undefined> extends Publisher {
  readonly message: Message<Payload>;
  readonly group: string;
  /** From 1. Above 1 an earlier attempt failed, or may have run and been cut off. */
  readonly attempt: number;
  /** Aborts when the attempt times out, the consumer's drain is over, or the delivery was lost to another consumer. */
  readonly signal: AbortSignal;
  /** The bus's logger with topic, group, message id and attempt. */
  readonly log: Logger;
  /**
   * With `once: "transaction"`: the open transaction. Effects written through it, the inbox row and what `publish` sends
   * commit together or not at all. It ends with the attempt; using it later throws.
   */
  readonly tx: Tx;
}

const levels = ["debug", "info", "warn", "error"] as const;

/** A logger that adds `bindings` to each line. Errors of the logger itself are swallowed: logging never fails a handler. */
export function bindLogger(logger: Logger | undefined, bindings: object): Logger {
  const bound = {} as Record<(typeof levels)[number], Logger["info"]>;
  for (const level of levels) {
    bound[level] = (details, message) => {
      try {
        logger?.[level]({ ...bindings, ...details }, message);
      } catch {
        // A broken logger is no reason to fail a message.
      }
    };
  }
  return bound;
}
