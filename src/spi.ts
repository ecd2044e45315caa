/**
 * The second door, for adapters and stores: the ports, the errors, and the small helpers they share. Not covered by the
 * promise that the first door (`postrider`) makes before 1.0.
 */
export type {
  Adapter,
  AdapterContext,
  DeadLetterCursor,
  DeliverySink,
  Destination,
  GroupSpec,
  OutgoingMessage,
  PublishLimits,
  PublishResult,
  RawDelivery,
  SettleResult,
  StoredDeadLetter,
  SubscribeSpec,
  Subscription,
  SubscriptionHealth,
  TopicSpec,
  Topology,
} from "./adapter.ts";
export type { Capabilities, Durability } from "./capabilities.ts";
export type { Cancel, Runtime } from "./clock.ts";
export type { AdapterEvent, BusEvent } from "./events.ts";
export type { HeaderPatch, Headers } from "./headers.ts";
export type { WireMessage } from "./message.ts";
export type { Names } from "./names.ts";
export type {
  EndedClaim,
  FetchSpec,
  InboxAnswer,
  InboxClaim,
  InboxKey,
  InboxOutcome,
  InboxStore,
  MigrationReport,
  OutboxEntry,
  OutboxPage,
  OutboxRow,
  OutboxStore,
  PreparedRow,
  PreparedStore,
  RelayLease,
  RelayOrder,
  Store,
  StoreContext,
  StoredResult,
  TablesVersion,
  UndecidedRow,
} from "./store.ts";
export { createDatabaseHealth } from "./database-health.ts";
export type { DatabaseHealth } from "./database-health.ts";
export { formatDuration, toMs } from "./duration.ts";
export type { Duration } from "./duration.ts";
export { idOf } from "./envelope.ts";
export {
  ConfigurationError,
  LifecycleError,
  MessagingError,
  PublishError,
  SettleError,
  StoreError,
  TransportError,
} from "./errors.ts";
export type { ErrorCode } from "./errors.ts";
export { header, headerCount, headerMap, headerTime, patchHeaders } from "./headers.ts";
export { redactUrl, textOf } from "./inspect.ts";
export { createAppendQueue } from "./outbox/append-queue.ts";
export type { AppendQueue } from "./outbox/append-queue.ts";
export { createSpreader, partitionOfKey } from "./partitioner.ts";
export { loadPeer } from "./peer.ts";
export { checkBoolean, checkFunction, checkInteger, checkKeys, checkOneOf, checkString } from "./options.ts";
export { jittered, retryLoop } from "./retry/loop.ts";
export { restored, storable } from "./storable-text.ts";
export { orderKey } from "./store.ts";
export { checkTls, isTlsCode, warnOfInsecurity } from "./tls.ts";
export type { TlsOptions } from "./tls.ts";
