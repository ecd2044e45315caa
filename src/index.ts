/** The public door of the core: explicit names, no logic. */
export type { Bus, DeclareOptions } from "./bus.ts";
export type { Capabilities, Durability } from "./capabilities.ts";
export type { Check, Decision } from "./check-back.ts";
export type { Runtime } from "./clock.ts";
export type { Codec } from "./codec.ts";
export type { AnyMiddleware, ConsumeOptions, Handler, Once } from "./consume.ts";
export type { CloseOptions, Consumer, ConsumerHealth } from "./consumer.ts";
export type { HandlerContext } from "./context.ts";
export { createBus } from "./create-bus.ts";
export type { BusOptions } from "./create-bus.ts";
export type {
  DeadLetter,
  DeadLetters,
  DiscardReport,
  RedriveOptions,
  RedriveReport,
  SelectOptions,
} from "./dead-letters.ts";
export type { Duration } from "./duration.ts";
export {
  CodecError,
  ConfigurationError,
  HandlerTimeoutError,
  LifecycleError,
  MessagingError,
  NonRetryableError,
  PublishError,
  SettleError,
  StoreError,
  TransportError,
} from "./errors.ts";
export type { ErrorCode } from "./errors.ts";
export { eventChannel } from "./events.ts";
export type { AdapterEvent, BusEvent, DeadLetterReason, EventListener, Logger } from "./events.ts";
export type { Headers } from "./headers.ts";
export type { Health, HealthCheck } from "./health.ts";
export type { Message } from "./message.ts";
export { deadLetter, discard, retryAfter } from "./outcome.ts";
export type { Directive, Outcome } from "./outcome.ts";
export type { RelayOptions } from "./outbox/relay-options.ts";
export type { Relay, RelayHealth } from "./outbox/relay.ts";
export type { Middleware } from "./pipeline.ts";
export type { Prepared, Undecided, UndecidedMessage } from "./prepared.ts";
export type { PublishAllOptions, PublishAllResult, PublishOptions, Publisher, Receipt } from "./publisher.ts";
export { constant, exponential } from "./retry/backoff.ts";
export type { Backoff, ExponentialOptions } from "./retry/backoff.ts";
export type { RetryOptions } from "./retry/policy.ts";
export type { OnceByLeaseOptions, OnceOptions } from "./run-once.ts";
export type { InputOf, OutputOf, StandardSchema } from "./schema.ts";
export type { MigrationReport, RelayOrder, Store } from "./store.ts";
export type { TlsOptions } from "./tls.ts";
export { defineTopic } from "./topic.ts";
export type { Topic, TopicOptions } from "./topic.ts";
