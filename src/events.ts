/**
 * Everything that happens inside, as one tagged union. `createBus({ onEvent })` and the diagnostics channel
 * `postrider` get each event; the logger is a listener like any other. A listener that throws changes nothing.
 */
import { channel } from "node:diagnostics_channel";
import type { MessagingError } from "./errors.ts";
import { isThenable, textOf } from "./inspect.ts";

/** Which message of which group an event is about. */
export interface DeliveryInfo {
  readonly topic: string;
  readonly group: string;
  readonly messageId: string;
  readonly attempt: number;
}

/** What adapters report. */
export type AdapterEvent =
  | { readonly type: "connected"; readonly adapter: string }
  | { readonly type: "disconnected"; readonly adapter: string; readonly error: MessagingError }
  | {
      readonly type: "reconnecting";
      readonly adapter: string;
      readonly attempt: number;
      readonly delayMs: number;
      readonly error: MessagingError;
    }
  /** Something that will matter later; `code` names the kind, so that each is said once. */
  | { readonly type: "warning"; readonly code: string; readonly message: string }
  /** Messages the broker no longer has, though nobody settled them (a trimmed stream, a deleted queue). */
  | {
      readonly type: "lost";
      readonly topic: string;
      readonly group: string;
      readonly count: number;
      readonly message: string;
    };

export type BusEvent =
  | AdapterEvent
  | {
      readonly type: "published";
      readonly topic: string;
      readonly messageId: string;
      readonly duplicate: boolean;
    }
  | {
      readonly type: "publishRetry";
      readonly topic: string;
      readonly messageId: string;
      readonly error: MessagingError;
    }
  | ({ readonly type: "handled" } & DeliveryInfo)
  | ({ readonly type: "retry"; readonly delayMs: number; readonly error: unknown } & DeliveryInfo)
  /** Out of attempts, with `onExhausted: "block"`: nothing else of its key is handled. Tried again after `delayMs`. */
  | ({ readonly type: "blocked"; readonly delayMs: number; readonly error: unknown } & DeliveryInfo)
  | ({
      readonly type: "deadLettered";
      readonly reason: DeadLetterReason;
      readonly error: unknown;
    } & DeliveryInfo)
  | ({ readonly type: "discarded"; readonly reason: string } & DeliveryInfo)
  /** Already handled before: settled without running the handler. */
  | ({ readonly type: "duplicate" } & DeliveryInfo)
  /** Another consumer is handling the same message now: looked at again after `delayMs`. */
  | ({ readonly type: "busy"; readonly delayMs: number } & DeliveryInfo)
  /** Settled too late: the delivery belonged to somebody else by then. */
  | ({ readonly type: "staleSettle" } & DeliveryInfo)
  | ({
      readonly type: "settleFailed";
      readonly error: MessagingError;
      readonly delayMs: number;
    } & DeliveryInfo)
  /** The store could not protect a delivery; its handler did not run and is tried again after `delayMs`. */
  | ({
      readonly type: "storeFailed";
      readonly error: MessagingError;
      readonly delayMs: number;
    } & DeliveryInfo)
  | { readonly type: "redriven"; readonly topic: string; readonly group: string; readonly messageId: string }
  | { readonly type: "relayed"; readonly count: number }
  /** What waits in the outbox and for how long, every few seconds, by the relay that holds the lease. */
  | {
      readonly type: "backlog";
      readonly depth: number;
      readonly oldestMs: number;
      readonly parked: number;
    }
  | { readonly type: "relayFailed"; readonly error: MessagingError; readonly delayMs: number }
  /** An outbox row that cannot be published, put aside. */
  | {
      readonly type: "relayParked";
      readonly topic: string;
      readonly messageId: string;
      readonly error: MessagingError;
    }
  /** A prepared message was committed or rolled back, by its sender or by its check. */
  | {
      readonly type: "decided";
      readonly topic: string;
      readonly messageId: string;
      readonly decision: "commit" | "rollback";
    }
  /** A check threw, or the store failed (then without a message); it is made again later. */
  | {
      readonly type: "checkFailed";
      readonly topic?: string;
      readonly messageId?: string;
      readonly error: unknown;
    }
  /** Nobody knew, however often asked: the message waits for `bus.undecided(topic)`. */
  | {
      readonly type: "checkParked";
      readonly topic: string;
      readonly messageId: string;
      readonly checks: number;
    };

/**
 * Why a message became a dead letter: all attempts failed, too old to be retried, an error no retry can heal, bytes
 * that cannot be read, a message that kills its process, or what the handler said with `deadLetter(reason)`.
 */
export type DeadLetterReason =
  | "exhausted"
  | "expired"
  | "non-retryable"
  | "invalid"
  | "crash-loop"
  | (string & Record<never, never>);

export type EventListener = (event: BusEvent) => void;

/** A pino-shaped logger; `console` works too. */
export interface Logger {
  debug(details: object, message?: string): void;
  info(details: object, message?: string): void;
  warn(details: object, message?: string): void;
  error(details: object, message?: string): void;
}

/** Name of the `node:diagnostics_channel` all events are published on. */
export const eventChannel = "postrider";

/** Sends each event to every listener; none of them can disturb the sender. */
export function createEmitter(listeners: readonly EventListener[]): EventListener {
  const diagnostics = channel(eventChannel);
  let complained = false;
  const contain = (error: unknown): void => {
    if (complained) return;
    complained = true;
    process.emitWarning(`an event listener failed and is ignored: ${textOf(error)}`, "PostriderWarning");
  };
  return (event) => {
    for (const listener of listeners) {
      try {
        const result: unknown = listener(event);
        // An asynchronous listener's rejection must not end the process.
        if (isThenable(result)) result.then(undefined, contain);
      } catch (error) {
        contain(error);
      }
    }
    if (diagnostics.hasSubscribers) diagnostics.publish(event);
  };
}

type Level = "debug" | "info" | "warn" | "error";

const levels: Record<BusEvent["type"], Level> = {
  connected: "info",
  disconnected: "warn",
  reconnecting: "warn",
  warning: "warn",
  lost: "error",
  published: "debug",
  publishRetry: "debug",
  handled: "debug",
  retry: "debug",
  blocked: "error",
  deadLettered: "error",
  discarded: "info",
  duplicate: "debug",
  busy: "debug",
  staleSettle: "warn",
  settleFailed: "error",
  storeFailed: "error",
  redriven: "info",
  relayed: "debug",
  backlog: "debug",
  relayFailed: "error",
  relayParked: "error",
  decided: "debug",
  checkFailed: "error",
  checkParked: "error",
};

/** Writes events to a logger: the event's fields as details (errors under `err`), its type as the message. Never a payload. */
export function logEvents(logger: Logger): EventListener {
  return (event) => {
    const { type, error, ...details } = event as BusEvent & { readonly error?: unknown };
    const text = event.type === "warning" || event.type === "lost" ? event.message : type;
    // What it returns, if anything, is the emitter's to contain.
    return logger[levels[type]](
      error === undefined ? details : { ...details, err: error },
      `postrider: ${text}`,
    );
  };
}

/** Without a logger, warnings are said once each to the process, so that they are not lost. */
export function warnOnce(): EventListener {
  const said = new Set<string>();
  return (event) => {
    if (event.type !== "warning" || said.has(event.code)) return;
    said.add(event.code);
    process.emitWarning(event.message, { type: "PostriderWarning", code: event.code });
  };
}
