/** What can publish: the bus, `bus.outbox(tx)` and a handler's context all implement `Publisher`. */
import { type Capabilities, type Durability, capabilityError, durabilities } from "./capabilities.ts";
import { type Duration, toMs } from "./duration.ts";
import type { EnvelopeOptions } from "./envelope.ts";
import { ConfigurationError, type MessagingError, type PublishError } from "./errors.ts";
import { show } from "./inspect.ts";
import { checkBoolean, checkKeys, checkOneOf } from "./options.ts";
import type { Topic } from "./topic.ts";

export interface PublishOptions {
  /**
   * Message id. Default: a new UUIDv7. Give one to publish the same message again, for example after an `"unknown"`
   * outcome in another process.
   */
  readonly id?: string | undefined;
  /** Ordering key; default: the topic's `key(payload)`. */
  readonly key?: string | undefined;
  /** Text headers, at most 8 KiB each and 32 KiB in all. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /**
   * Two messages of a topic with one idempotency key are one message: the broker or the outbox stores the second not at
   * all where it can, and consumers with `once` handle only the first.
   */
  readonly idempotencyKey?: string | undefined;
  readonly correlationId?: string | undefined;
  readonly causationId?: string | undefined;
  /** Handle it no earlier than this from now, at most the adapter's `maxDelayMs`. */
  readonly delay?: Duration | undefined;
  /** How safe it must be before the promise resolves. Default `"replicated"`. */
  readonly durability?: Durability | undefined;
  /**
   * `false`: a topic without a group, on a broker that does not retain, drops the message. Default `true`: `ERR_NO_ROUTE`.
   * An outbox refuses `false`: its rows wait until they have a route.
   */
  readonly requireRoute?: boolean | undefined;
  /**
   * Longest wait for the broker's confirmation, retries included. Default: the bus's `publishTimeout`. Through an outbox
   * nobody waits for the broker: the relay tries until it is confirmed.
   */
  readonly timeout?: Duration | undefined;
  /** Gives up waiting. The message may or may not have been sent. */
  readonly signal?: AbortSignal | undefined;
}

/** Proof of a confirmed send. */
export interface Receipt {
  readonly id: string;
  /** What was reached; `"outbox"`: it leaves if and when the transaction commits. */
  readonly durability: Durability | "outbox";
  /** The broker had it already, by its id or idempotency key. */
  readonly duplicate: boolean;
}

/** One result of `publishAll`, in the order of the payloads. */
export type PublishAllResult =
  | ({ readonly status: "accepted"; readonly index: number } & Receipt)
  /** `rejected`: surely not sent. `unknown`: it may have been; `error.messageId` is its id. */
  | {
      readonly status: "rejected" | "unknown";
      readonly index: number;
      readonly id: string | undefined;
      readonly error: PublishError | MessagingError;
    };

/** `NoInfer`: the topic alone says what its payload is; otherwise a payload that lacks a field would widen the topic's type. */
export interface Publisher {
  /**
   * Sends one message. Resolves once it is durable as asked for. Rejects with `ConfigurationError` for a wrong option, with
   * `CodecError` for a payload or header that cannot be sent, with the reason of `signal` when that aborts, and with
   * `PublishError` otherwise: `accepted` says whether the broker may have it all the same. With `maxPending` messages
   * waiting for their confirmation already that is at once, with `ERR_BACKLOG`.
   */
  publish<Input, Output>(
    topic: Topic<Input, Output>,
    payload: NoInfer<Input>,
    options?: PublishOptions,
  ): Promise<Receipt>;
  /**
   * Sends many, pipelined. Never rejects for one of them: each has its own result. Order per key is kept, also when some
   * have to be sent again. Rejects only as a whole: with `ConfigurationError` for options that are wrong for all, with
   * `ERR_BACKLOG` when there is no room for another call.
   */
  publishAll<Input, Output>(
    topic: Topic<Input, Output>,
    payloads: readonly NoInfer<Input>[],
    options?: PublishAllOptions,
  ): Promise<readonly PublishAllResult[]>;
}

/** `publishAll` takes what makes sense for many messages at once. */
export type PublishAllOptions = Omit<PublishOptions, "id" | "key" | "idempotencyKey">;

/** `PublishOptions` checked, in milliseconds. */
export interface CheckedPublishOptions extends EnvelopeOptions {
  readonly delayMs: number;
  readonly durability: Durability;
  readonly requireRoute: boolean;
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
}

const knownOptions = [
  "id",
  "key",
  "headers",
  "idempotencyKey",
  "correlationId",
  "causationId",
  "delay",
  "durability",
  "requireRoute",
  "timeout",
  "signal",
] as const satisfies readonly (keyof PublishOptions)[];

/** Throws `ERR_CONFIG` on what no adapter takes, `ERR_DELAY` on a delay that is none. */
export function checkPublishOptions(options: PublishOptions = {}): CheckedPublishOptions {
  checkKeys("publish", options, knownOptions);
  const { delay, timeout, durability = "replicated", requireRoute = true, ...envelope } = options;
  return {
    ...envelope,
    delayMs: delay === undefined ? 0 : Math.ceil(toMs(delay, "delay", { code: "ERR_DELAY" })),
    durability: checkOneOf("durability", durability, durabilities),
    requireRoute: checkBoolean("requireRoute", requireRoute),
    timeoutMs: timeout === undefined ? undefined : toMs(timeout, "timeout", { min: 1 }),
    signal: checkSignal(options.signal),
  };
}

function checkSignal(signal: unknown): AbortSignal | undefined {
  if (signal === undefined || signal instanceof AbortSignal) return signal;
  throw new ConfigurationError("ERR_CONFIG", `signal must be an AbortSignal, got ${show(signal)}`);
}

const knownAllOptions: readonly string[] = knownOptions.filter(
  (option) => option !== "id" && option !== "key" && option !== "idempotencyKey",
);

/** Like `checkPublishOptions`, and refuses what would make one message of many: one id or idempotency key for all. */
export function checkPublishAllOptions(
  payloads: unknown,
  options: PublishAllOptions = {},
): CheckedPublishOptions {
  if (!Array.isArray(payloads)) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `publishAll takes an array of payloads, got ${show(payloads)}`,
    );
  }
  checkKeys("publishAll", options, knownAllOptions);
  return checkPublishOptions(options);
}

/** Throws `ERR_CAPABILITY` on what this adapter cannot do. */
export function checkPublishCapabilities(
  options: CheckedPublishOptions,
  adapter: string,
  capabilities: Capabilities,
): void {
  if (!capabilities.durability.includes(options.durability)) {
    throw capabilityError(
      adapter,
      `has no durability "${options.durability}"`,
      `Use one of ${capabilities.durability.join(", ")}.`,
    );
  }
  if (options.delayMs > capabilities.maxDelayMs) {
    throw capabilityError(
      adapter,
      `delays at most ${capabilities.maxDelayMs} ms, asked for ${options.delayMs} ms`,
      "Use a shorter delay, or keep the message in your own tables until it is due.",
    );
  }
}
