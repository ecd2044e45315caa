/** What a handler is given besides the payload. */
import type { Logger } from "./events.ts";
import { isThenable } from "./inspect.ts";
import type { Message } from "./message.ts";
import type { Publisher } from "./publisher.ts";

export interface HandlerContext<Payload = unknown, Tx = undefined> extends Publisher {
  readonly message: Message<Payload>;
  readonly group: string;
  /** From 1. Above 1 an earlier attempt failed, or may have run and been cut off. */
  readonly attempt: number;
  /**
   * Aborts when the attempt times out, the consumer's drain is over, or the message may be handled elsewhere by now: the
   * delivery was lost (connection gone, lease run out) and, with `once`, its claim in the store too.
   */
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

/** A broken logger is no reason to fail a message. */
const ignore = (): void => undefined;

/** A logger that adds `bindings` to each line. Errors of the logger itself are swallowed: logging never fails a handler. */
export function bindLogger(logger: Logger | undefined, bindings: object): Logger {
  const bound = {} as Record<(typeof levels)[number], Logger["info"]>;
  for (const level of levels) {
    bound[level] = (details, message) => {
      try {
        const result: unknown = logger?.[level]({ ...bindings, ...details }, message);
        if (isThenable(result)) result.then(undefined, ignore);
      } catch {
        ignore();
      }
    };
  }
  return bound;
}
