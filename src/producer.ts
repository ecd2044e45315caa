/** Publishing: encode at once, go out in batches, try again until confirmed or out of time. */
import { type AbortFan, createAbortFan } from "./abort-fan.ts";
import type { Adapter, OutgoingMessage, PublishResult, TopicSpec } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { createCoalescer } from "./coalesce.ts";
import { createDeadlines } from "./deadlines.ts";
import { type EnvelopeContext, checkSize, encode } from "./envelope.ts";
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
import { AbandonedPublish, Sending, publishFailed, timedOut } from "./sending.ts";
import { orderKey } from "./store.ts";
import type { Topic } from "./topic.ts";

export interface ProducerContext {
  readonly adapter: Adapter;
  readonly runtime: Runtime;
  readonly envelope: EnvelopeContext;
  readonly emit: EventListener;
  readonly publishTimeoutMs: number;
  /** Messages of `publish` and `publishAll` that may have no outcome yet when another one comes. */
  readonly maxPending: number;
  /** Resolves when the adapter is connected and the topic exists. */
  ready(topic: TopicSpec): Promise<void>;
  /** Aborted when nothing is waited for any more: what has no outcome yet gets one. */
  readonly closed: AbortSignal;
}

export interface Producer {
  publish(topic: Topic, payload: unknown, options: CheckedPublishOptions): Promise<Receipt>;
  /** One result per payload, in order; of one key they are sent in order. Rejects only as a whole, with `ERR_BACKLOG`. */
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

type Accepted = PublishResult & { readonly status: "accepted" };

export function createProducer(context: ProducerContext): Producer {
  const { adapter, runtime, emit, closed } = context;
  const backoff = jittered(runtime, "publish", 50, 5_000);
  const keyOrder = createKeyOrder();
  let underWay = 0;
  let pending = 0;
  let idlers: (() => void)[] = [];

  const coalescer = createCoalescer<Sending, PublishResult>({
    runtime,
    maxBatch: adapter.publishLimits.maxBatch,
    maxInFlight: adapter.publishLimits.maxInFlight,
    send: (batch) => handOver(adapter, batch),
  });
  const live = createDeadlines<Sending>(runtime, (sending) => sending.abandon(timedOut(sending)));
  const abandonAll = (): void => {
    for (const sending of live) sending.abandon(publishFailed(sending, closed.reason));
  };
  closed.addEventListener("abort", abandonAll, { once: true });

  /** One attempt; throws what makes it worth, or not worth, another. */
  const attempt = async (sending: Sending, turn: Turn): Promise<Accepted> => {
    const { destination, message } = sending.outgoing;
    // An outbox may hold what was written for another broker. What goes to one group only has been on this one before.
    if (destination.group === undefined && message.body !== null)
      checkSize(destination.topic.name, message.body, adapter.capabilities.maxBytes);
    await context.ready(destination.topic);
    const result = await turn.start(() => coalescer.push(sending));
    if (result.status === "accepted") return result;
    throw result.error;
  };

  /** Attempts until one is accepted, or trying again is no use. */
  const attempts = (sending: Sending, turn: Turn): Promise<Accepted> =>
    retryLoop(
      (ms) => runtime.sleep(ms, sending.abandoned),
      () => attempt(sending, turn),
      (error, n) => {
        if (sending.isAbandoned || !MessagingError.is(error) || !error.retryable) return undefined;
        sending.lastError = error;
        turn.failed();
        const topic = sending.outgoing.destination.topic.name;
        emit({ type: "publishRetry", topic, messageId: sending.id, error });
        return backoff(n);
      },
    );

  /** Rejects with a `PublishError`, which says whether the broker may have the message. */
  const deliver = async (
    outgoing: OutgoingMessage,
    timeoutMs = context.publishTimeoutMs,
    aborted?: AbortFan,
  ): Promise<Receipt> => {
    const sending = new Sending(outgoing, runtime.monotonic(), timeoutMs);
    if (aborted?.aborted === true) throw new AbandonedPublish(sending, aborted.reason);
    if (closed.aborted) throw publishFailed(sending, closed.reason);
    const turn = keyOrder.enter(orderKey(outgoing));
    const takeBack = aborted?.add(() => sending.abandon(new AbandonedPublish(sending, aborted.reason)));
    live.add(sending);
    try {
      const { durability, duplicate = false } = await sending.until(attempts(sending, turn));
      emit({ type: "published", topic: outgoing.destination.topic.name, messageId: sending.id, duplicate });
      return { id: sending.id, durability, duplicate };
    } finally {
      takeBack?.();
      live.delete(sending);
      turn.end();
    }
  };

  /** Counts it among what `idle` waits for. */
  const track = async <T>(publishing: Promise<T>): Promise<T> => {
    underWay += 1;
    try {
      return await publishing;
    } catch (error) {
      throw error instanceof AbandonedPublish ? error.reason : error;
    } finally {
      underWay -= 1;
      if (underWay === 0) for (const wake of idlers.splice(0)) wake();
    }
  };

  /** Whoever sends faster than the broker takes must hear of it: nothing else bounds what waits in memory. */
  const admit = async <T>(topic: Topic, count: number, act: () => Promise<T>): Promise<T> => {
    if (pending >= context.maxPending) throw backlog(topic, pending, runtime.newId());
    pending += count;
    try {
      return await act();
    } finally {
      pending -= count;
    }
  };

  /** At once, unless the topic's schema is asynchronous. Throws what `encode` throws, and `ERR_CAPABILITY`. */
  const outgoingOf = (
    topic: Topic,
    payload: unknown,
    options: CheckedPublishOptions,
  ): OutgoingMessage | Promise<OutgoingMessage> => {
    checkPublishCapabilities(options, adapter.name, adapter.capabilities);
    const { durability, requireRoute, delayMs } = options;
    const finish = (wire: WireMessage): OutgoingMessage => {
      const message = delayMs === 0 ? wire : delayed(wire, runtime.now() + delayMs);
      return { destination: { topic: topicSpec(topic) }, message, durability, requireRoute };
    };
    const encoded = encode(topic, payload, options, context.envelope);
    return encoded instanceof Promise ? encoded.then(finish) : finish(encoded);
  };

  const publish = async (
    topic: Topic,
    payload: unknown,
    options: CheckedPublishOptions,
  ): Promise<Receipt> => {
    const { timeoutMs, signal } = options;
    const outgoing = await outgoingOf(topic, payload, options);
    return deliver(outgoing, timeoutMs, signal === undefined ? undefined : createAbortFan(signal));
  };

  const publishAll = async (
    topic: Topic,
    payloads: readonly unknown[],
    options: CheckedPublishOptions,
  ): Promise<PublishAllResult[]> => {
    const { timeoutMs, signal } = options;
    const aborted = signal === undefined ? undefined : createAbortFan(signal);
    // All are encoded before any is sent: asynchronous schemas end in any order.
    const encoded = await Promise.allSettled(payloads.map(async (one) => outgoingOf(topic, one, options)));
    const sent = encoded.map((one) =>
      one.status === "fulfilled" ? deliver(one.value, timeoutMs, aborted) : Promise.reject(one.reason),
    );
    const settled = await Promise.allSettled(sent);
    return settled.map((result, index) => publishAllResult(index, result));
  };

  return {
    publish: (topic, payload, options) => track(admit(topic, 1, () => publish(topic, payload, options))),
    publishAll: (topic, payloads, options) =>
      track(admit(topic, payloads.length, () => publishAll(topic, payloads, options))),
    send: (outgoing, timeoutMs, signal) =>
      track(deliver(outgoing, timeoutMs, signal === undefined ? undefined : createAbortFan(signal))),
    idle: () => (underWay === 0 ? Promise.resolve() : new Promise((resolve) => idlers.push(resolve))),
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
  const live = batch.filter((sending) => !sending.isAbandoned);
  for (const sending of live) sending.handedOver = true;
  const results = live.length === 0 ? [] : await adapter.publish(live.map(({ outgoing }) => outgoing));
  live.forEach((sending, i) => {
    const status = results[i]?.status;
    if (status === "rejected") sending.handedOver = false;
    else if (status === "unknown") sending.unanswered = true;
  });
  if (live.length === batch.length) return results;
  const byItem = new Map(live.map((sending, i) => [sending, results[i]]));
  return batch.map((sending) => byItem.get(sending) ?? givenUp());
}

function givenUp(): PublishResult {
  const text = "publish was given up before it was sent";
  return { status: "rejected", error: new TransportError("ERR_BROKER", text, { retryable: false }) };
}

function backlog(topic: Topic, pending: number, messageId: string): PublishError {
  const text = `publish to "${topic.name}" was refused: ${pending} messages wait for their confirmation already (maxPending). It was not sent. Wait for some of them, or send with publishAll`;
  return new PublishError("ERR_BACKLOG", text, { accepted: "no", messageId });
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
