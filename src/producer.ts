/** Publishing: encode at once, go out in batches, try again until confirmed or out of time. */
import type { Adapter, OutgoingMessage, PublishResult, TopicSpec } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { createCoalescer } from "./coalesce.ts";
import { type EnvelopeContext, encode } from "./envelope.ts";
import { MessagingError, PublishError, TransportError } from "./errors.ts";
import type { EventListener } from "./events.ts";
import { header, patchHeaders } from "./headers.ts";
import type { WireMessage } from "./message.ts";
import {
  type CheckedPublishOptions,
  type PublishAllResult,
  type Receipt,
  checkPublishCapabilities,
} from "./publisher.ts";
import { jittered, retryLoop } from "./retry/loop.ts";
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

export function createProducer(context: ProducerContext): Producer {
  const { adapter, runtime, emit } = context;
  const backoff = jittered(runtime, "publish", 50, 5_000);
  const pending = new Set<Promise<Receipt>>();

  const coalescer = createCoalescer<Sending, PublishResult>({
    runtime,
    maxBatch: adapter.publishLimits.maxBatch,
    maxInFlight: adapter.publishLimits.maxInFlight,
    send: (batch) => handOver(adapter, batch),
  });

  /** One attempt; throws what makes it worth, or not worth, another. */
  const attempt = async (sending: Sending): Promise<PublishResult & { status: "accepted" }> => {
    await context.ready(sending.outgoing.destination.topic);
    const result = await coalescer.push(sending);
    if (result.status === "accepted") return result;
    throw result.error;
  };

  const deliver = async (
    sending: Sending,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Receipt> => {
    const messageId = idOfSending(sending);
    const topic = sending.outgoing.destination.topic.name;
    const nextDelay = (error: unknown, n: number): number | undefined => {
      if (!MessagingError.is(error) || !error.retryable) return undefined;
      sending.lastError = error;
      emit({ type: "publishRetry", topic, messageId, error });
      return backoff(n);
    };
    const result = await withDeadline(context, sending, timeoutMs, signal, (ended) =>
      retryLoop(
        (ms) => runtime.sleep(ms, ended),
        () => attempt(sending),
        nextDelay,
      ),
    );
    const duplicate = result.duplicate === true;
    emit({ type: "published", topic, messageId, duplicate });
    return { id: messageId, durability: result.durability, duplicate };
  };

  const send: Producer["send"] = (outgoing, timeoutMs = context.publishTimeoutMs, signal) => {
    const receipt = deliver({ outgoing, maybeSent: false, abandoned: false }, timeoutMs, signal);
    pending.add(receipt);
    const forget = (): void => void pending.delete(receipt);
    receipt.then(forget, forget);
    return receipt;
  };

  return {
    async publish(topic, payload, options) {
      checkPublishCapabilities(options, adapter.name, adapter.capabilities);
      const encoded = encode(topic, payload, options, context.envelope);
      const wire = encoded instanceof Promise ? await encoded : encoded;
      const { durability, requireRoute } = options;
      const message = options.delayMs === 0 ? wire : delayed(wire, runtime.now() + options.delayMs);
      const outgoing = { destination: { topic: topicSpec(topic) }, message, durability, requireRoute };
      return send(outgoing, options.timeoutMs, options.signal);
    },
    send,
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
 * into a `PublishError` that says whether the broker may have the message. An abort rejects with the signal's reason.
 */
function withDeadline<T>(
  { runtime, closed }: ProducerContext,
  sending: Sending,
  timeoutMs: number,
  signal: AbortSignal | undefined,
  run: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const attempts = new AbortController();
    const end = (): void => {
      cancelTimer();
      signal?.removeEventListener("abort", onAbort);
      closed.removeEventListener("abort", onClosed);
    };
    const abandon = (error: unknown): void => {
      end();
      sending.abandoned = true;
      reject(error);
      attempts.abort(error);
    };
    const onAbort = (): void => abandon(signal?.reason);
    const onClosed = (): void => abandon(publishError(sending, closed.reason));
    const cancelTimer = runtime.setTimer(timeoutMs, () => abandon(timedOut(sending, timeoutMs)));
    if (signal?.aborted === true) return onAbort();
    if (closed.aborted) return onClosed();
    signal?.addEventListener("abort", onAbort, { once: true });
    closed.addEventListener("abort", onClosed, { once: true });
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

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
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
