/** Publishing: encode at once, go out in batches, try again until confirmed or out of time. */
import { type AbortFan, createAbortFan } from "./abort-fan.ts";
import type { Adapter, OutgoingMessage, PublishResult, TopicSpec } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { createCoalescer } from "./coalesce.ts";
import { type EnvelopeContext, encode } from "./envelope.ts";
import { MessagingError, PublishError, TransportError } from "./errors.ts";
import type { EventListener } from "./events.ts";
import { header, patchHeaders } from "./headers.ts";
import { textOf } from "./inspect.ts";
import type { WireMessage } from "./message.ts";
import {
  type CheckedPublishOptions,
  type PublishAllResult,
  type Receipt,
  checkPublishCapabilities,
} from "./publisher.ts";
import { type Turn, createKeyOrder } from "./key-order.ts";
import { jittered, retryLoop } from "./retry/loop.ts";
import { orderKey } from "./store.ts";
import type { Topic } from "./topic.ts";

export interface ProducerContext {
  readonly adapter: Adapter;
  readonly runtime: Runtime;
  readonly envelope: EnvelopeContext;
  readonly emit: EventListener;
  readonly publishTimeoutMs: number;
  /** Resolves when the adapter is connected and the topic exists. */
  ready(topic: TopicSpec): Promise<void>;
  /** Aborted when nothing is waited for any more: what has no outcome yet gets one. */
  readonly closed: AbortSignal;
}

export interface Producer {
  publish(topic: Topic, payload: unknown, options: CheckedPublishOptions): Promise<Receipt>;
  /** One result per payload, in order; of one key they are sent in order. Never rejects. */
  publishAll(
    topic: Topic,
    payloads: readonly unknown[],
    options: CheckedPublishOptions,
  ): Promise<PublishAllResult[]>;
  /** Sends what is already encoded: the relay's rows, redriven dead letters. */
  send(outgoing: OutgoingMessage, timeoutMs?: number, signal?: AbortSignal): Promise<Receipt>;
  /** Resolves when every publish has its outcome. */
  idle(): Promise<void>;
}

/** One message on its way. Whether the broker may have it decides what a failure is called. */
interface Sending {
  readonly outgoing: OutgoingMessage;
  /** An attempt is with the adapter, or one ended `unknown`. */
  maybeSent: boolean;
  /** The caller has stopped waiting: what has not been handed over must not be. */
  abandoned: boolean;
  /** Why the latest attempt failed. */
  lastError?: MessagingError;
}

/** The caller's signal ended the wait: `publish` rejects with the signal's reason, `publishAll` says what is known. */
class AbandonedPublish extends PublishError {
  readonly reason: unknown;
  constructor(sending: Sending, reason: unknown) {
    super("ERR_PUBLISH", `publish of ${nameOf(sending)} was given up: ${textOf(reason)}`, {
      cause: reason,
      accepted: sending.maybeSent ? "unknown" : "no",
      messageId: idOfSending(sending),
    });
    this.reason = reason;
  }
}

const neverAborted = createAbortFan(undefined);

function rethrowReason(error: unknown): never {
  throw error instanceof AbandonedPublish ? error.reason : error;
}

export function createProducer(context: ProducerContext): Producer {
  const { adapter, runtime, emit } = context;
  const backoff = jittered(runtime, "publish", 50, 5_000);
  const pending = new Set<Promise<unknown>>();
  const keyOrder = createKeyOrder();
  const closed = createAbortFan(context.closed);

  const coalescer = createCoalescer<Sending, PublishResult>({
    runtime,
    maxBatch: adapter.publishLimits.maxBatch,
    maxInFlight: adapter.publishLimits.maxInFlight,
    send: (batch) => handOver(adapter, batch),
  });

  /** One attempt; throws what makes it worth, or not worth, another. */
  const attempt = async (sending: Sending, turn: Turn): Promise<PublishResult & { status: "accepted" }> => {
    await context.ready(sending.outgoing.destination.topic);
    const result = await turn.start(() => coalescer.push(sending));
    if (result.status === "accepted") return result;
    throw result.error;
  };

  const deliver = async (
    outgoing: OutgoingMessage,
    timeoutMs = context.publishTimeoutMs,
    aborted = neverAborted,
  ): Promise<Receipt> => {
    const sending: Sending = { outgoing, maybeSent: false, abandoned: false };
    const messageId = idOfSending(sending);
    const topic = outgoing.destination.topic.name;
    const turn = keyOrder.enter(orderKey(outgoing));
    const nextDelay = (error: unknown, n: number): number | undefined => {
      if (sending.abandoned || !MessagingError.is(error) || !error.retryable) return undefined;
      sending.lastError = error;
      turn.failed();
      emit({ type: "publishRetry", topic, messageId, error });
      return backoff(n);
    };
    try {
      const result = await withDeadline(runtime, sending, { timeoutMs, aborted, closed }, (ended) =>
        retryLoop(
          (ms) => runtime.sleep(ms, ended),
          () => attempt(sending, turn),
          nextDelay,
        ),
      );
      const duplicate = result.duplicate === true;
      emit({ type: "published", topic, messageId, duplicate });
      return { id: messageId, durability: result.durability, duplicate };
    } finally {
      turn.end();
    }
  };

  /** Counts it among what `idle` waits for. */
  const track = <T>(publishing: Promise<T>): Promise<T> => {
    pending.add(publishing);
    const forget = (): void => void pending.delete(publishing);
    publishing.then(forget, forget);
    return publishing;
  };

  const outgoingOf = async (
    topic: Topic,
    payload: unknown,
    options: CheckedPublishOptions,
  ): Promise<OutgoingMessage> => {
    checkPublishCapabilities(options, adapter.name, adapter.capabilities);
    const encoded = encode(topic, payload, options, context.envelope);
    const wire = encoded instanceof Promise ? await encoded : encoded;
    const { durability, requireRoute } = options;
    const message = options.delayMs === 0 ? wire : delayed(wire, runtime.now() + options.delayMs);
    return { destination: { topic: topicSpec(topic) }, message, durability, requireRoute };
  };

  const publish = async (
    topic: Topic,
    payload: unknown,
    options: CheckedPublishOptions,
  ): Promise<Receipt> => {
    const outgoing = await outgoingOf(topic, payload, options);
    return deliver(outgoing, options.timeoutMs, createAbortFan(options.signal));
  };

  const publishAll = async (
    topic: Topic,
    payloads: readonly unknown[],
    options: CheckedPublishOptions,
  ): Promise<PublishAllResult[]> => {
    const aborted = createAbortFan(options.signal);
    // All are encoded before any is sent: asynchronous schemas end in any order.
    const encoded = await Promise.allSettled(payloads.map((one) => outgoingOf(topic, one, options)));
    const sent = encoded.map(async (one) => {
      if (one.status === "rejected") throw one.reason;
      return deliver(one.value, options.timeoutMs, aborted);
    });
    const settled = await Promise.allSettled(sent);
    return settled.map((result, index) => publishAllResult(index, result));
  };

  return {
    publish: (topic, payload, options) => track(publish(topic, payload, options)).catch(rethrowReason),
    publishAll: (topic, payloads, options) => track(publishAll(topic, payloads, options)),
    send: (outgoing, timeoutMs, signal) =>
      track(deliver(outgoing, timeoutMs, signal === undefined ? neverAborted : createAbortFan(signal))).catch(
        rethrowReason,
      ),
    async idle() {
      while (pending.size > 0) await Promise.allSettled(pending);
    },
  };
}

/** What an adapter needs to know of a topic. */
export function topicSpec(topic: Topic): TopicSpec {
  return { name: topic.name, partitions: topic.partitions, keyed: topic.key !== undefined };
}

/** Stamps when a delayed message is due; the group that receives it holds it until then. */
export function delayed(message: WireMessage, dueAt: number): WireMessage {
  return { ...message, headers: patchHeaders(message.headers, { [header.notBefore]: String(dueAt) }) };
}

async function handOver(adapter: Adapter, batch: readonly Sending[]): Promise<readonly PublishResult[]> {
  const abandoned: PublishResult = {
    status: "rejected",
    error: new TransportError("ERR_BROKER", "publish was given up before it was sent", { retryable: false }),
  };
  const live = batch.filter((sending) => !sending.abandoned);
  const before = live.map((sending) => sending.maybeSent);
  for (const sending of live) sending.maybeSent = true;
  const results = live.length === 0 ? [] : await adapter.publish(live.map((sending) => sending.outgoing));
  live.forEach((sending, i) => {
    if (results[i]?.status === "rejected") sending.maybeSent = before[i] ?? false;
  });
  const byItem = new Map(live.map((sending, i) => [sending, results[i]]));
  return batch.map((sending) => byItem.get(sending) ?? abandoned);
}

/**
 * Runs the attempts until their end, the deadline or the caller's signal, whichever is first, and turns every failure
 * into a `PublishError` that says whether the broker may have the message.
 */
function withDeadline<T>(
  runtime: Runtime,
  sending: Sending,
  limits: { readonly timeoutMs: number; readonly aborted: AbortFan; readonly closed: AbortFan },
  run: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const { timeoutMs, aborted, closed } = limits;
  return new Promise<T>((resolve, reject) => {
    const attempts = new AbortController();
    const abandon = (error: PublishError): void => {
      end();
      sending.abandoned = true;
      reject(error);
      attempts.abort(error);
    };
    const onAbort = (): void => abandon(new AbandonedPublish(sending, aborted.reason));
    const onClosed = (): void => abandon(publishError(sending, closed.reason));
    const cancels = [
      runtime.setTimer(timeoutMs, () => abandon(timedOut(sending, timeoutMs))),
      aborted.add(onAbort),
      closed.add(onClosed),
    ];
    const end = (): void => cancels.forEach((cancel) => cancel());
    if (aborted.aborted) return onAbort();
    if (closed.aborted) return onClosed();
    run(attempts.signal).then(
      (value) => {
        end();
        resolve(value);
      },
      (error: unknown) => {
        end();
        reject(publishError(sending, error));
      },
    );
  });
}

function timedOut(sending: Sending, timeoutMs: number): PublishError {
  const advice = sending.maybeSent
    ? "The broker may have the message: publish again with the same id."
    : "The broker does not have the message.";
  const last = sending.lastError === undefined ? "" : ` Last error: ${sending.lastError.message}`;
  const text = `publish of ${nameOf(sending)} was not confirmed within ${timeoutMs} ms. ${advice}${last}`;
  return new PublishError("ERR_TIMEOUT", text, {
    cause: sending.lastError,
    accepted: sending.maybeSent ? "unknown" : "no",
    messageId: idOfSending(sending),
  });
}

function publishError(sending: Sending, cause: unknown): PublishError {
  const known = MessagingError.is(cause) ? cause : undefined;
  return new PublishError(
    known?.code ?? "ERR_PUBLISH",
    `publish of ${nameOf(sending)} failed: ${textOf(cause)}`,
    {
      cause,
      accepted: sending.maybeSent ? "unknown" : "no",
      messageId: idOfSending(sending),
      ...(known === undefined ? {} : { retryable: known.retryable }),
    },
  );
}

function idOfSending(sending: Sending): string {
  return sending.outgoing.message.attributes["id"] ?? "";
}

function nameOf(sending: Sending): string {
  return `message \`${idOfSending(sending)}\` to topic \`${sending.outgoing.destination.topic.name}\``;
}

/** The result of `publishAll` for one item. */
export function publishAllResult(index: number, settled: PromiseSettledResult<Receipt>): PublishAllResult {
  if (settled.status === "fulfilled") return { status: "accepted", index, ...settled.value };
  const reason: unknown = settled.reason;
  const error = MessagingError.is(reason)
    ? reason
    : new TransportError("ERR_BROKER", `publish failed: ${textOf(reason)}`, { cause: reason });
  const publishError = error instanceof PublishError ? error : undefined;
  return {
    status: publishError?.accepted === "unknown" ? "unknown" : "rejected",
    index,
    id: publishError?.messageId,
    error,
  };
}
