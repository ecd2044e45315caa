/** Sending inside the caller's own transaction: the message leaves if and only if it commits. */
import type { Adapter } from "../adapter.ts";
import { type EnvelopeContext, encode } from "../envelope.ts";
import { ConfigurationError } from "../errors.ts";
import {
  type CheckedPublishOptions,
  type PublishAllResult,
  type Publisher,
  type Receipt,
  checkPublishAllOptions,
  checkPublishCapabilities,
  checkPublishOptions,
} from "../publisher.ts";
import { delayed, publishAllResult, topicSpec } from "../producer.ts";
import type { OutboxEntry, Store } from "../store.ts";
import { type Topic, checkTopic } from "../topic.ts";

export interface OutboxContext {
  readonly store: Store;
  /** What the relay will publish with: what it cannot do is refused before it is written. */
  readonly adapter: Pick<Adapter, "name" | "capabilities">;
  readonly envelope: EnvelopeContext;
  /** Resolves when the store is connected and its tables are there. */
  ready(): Promise<void>;
  /** Called when entries may be committed: at the end of their transaction, if the store can tell, else once they were added. */
  readonly onAppended: () => void;
}

type EntryContext = Pick<OutboxContext, "adapter" | "envelope">;

/** A message as the outbox stores it. Throws on what a relay could not send. */
export async function entryOf(
  context: EntryContext,
  topic: Topic,
  payload: unknown,
  options: CheckedPublishOptions,
): Promise<OutboxEntry> {
  checkForRelay(context, options);
  const { envelope } = context;
  const encoded = encode(topic, payload, options, envelope);
  const wire = encoded instanceof Promise ? await encoded : encoded;
  const message = options.delayMs === 0 ? wire : delayed(wire, envelope.runtime.now() + options.delayMs);
  return { destination: { topic: topicSpec(topic) }, message, durability: options.durability };
}

function checkForRelay({ adapter }: EntryContext, options: CheckedPublishOptions): void {
  checkPublishCapabilities(options, adapter.name, adapter.capabilities);
  if (options.requireRoute) return;
  throw new ConfigurationError(
    "ERR_CONFIG",
    "an outbox has no requireRoute: false; its rows wait for a route",
  );
}

/** A `Publisher` that writes into the open transaction `handle`. Its promises reject with `ERR_TX` when there is none. */
export function createOutbox(context: OutboxContext, handle: unknown): Publisher {
  const { store } = context;

  const append = async (entries: readonly OutboxEntry[], signal: AbortSignal | undefined): Promise<void> => {
    if (entries.length === 0) return;
    await context.ready();
    signal?.throwIfAborted();
    await store.outbox.append(handle, entries);
    if (store.outbox.onceEnded === undefined) context.onAppended();
    else store.outbox.onceEnded(handle, context.onAppended);
  };

  const receiptOf = (entry: OutboxEntry): Receipt => ({
    id: entry.message.attributes["id"] ?? "",
    durability: "outbox",
    duplicate: false,
  });

  return {
    async publish(topic, payload, options) {
      checkTopic("publish", topic);
      const checked = checkPublishOptions(options);
      const entry = await entryOf(context, topic, payload, checked);
      await append([entry], checked.signal);
      return receiptOf(entry);
    },
    /** One statement for all that can be encoded; a failing statement rejects, for it has failed the transaction. */
    async publishAll(topic, payloads, options) {
      checkTopic("publishAll", topic);
      const checked = checkPublishAllOptions(payloads, options);
      checkForRelay(context, checked);
      const settled = await Promise.allSettled(
        payloads.map((payload) => entryOf(context, topic, payload, checked)),
      );
      const entries = settled.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
      await append(entries, checked.signal);
      return settled.map((result, index): PublishAllResult =>
        publishAllResult(
          index,
          result.status === "fulfilled" ? { status: "fulfilled", value: receiptOf(result.value) } : result,
        ),
      );
    },
  };
}
