/** Sending inside the caller's own transaction: the message leaves if and only if it commits. */
import { type EnvelopeContext, encode } from "../envelope.ts";
import type { PublishAllResult, PublishOptions, Publisher, Receipt } from "../publisher.ts";
import { checkPublishOptions } from "../publisher.ts";
import { delayed, publishAllResult, topicSpec } from "../producer.ts";
import type { OutboxEntry, Store } from "../store.ts";
import type { Topic } from "../topic.ts";

export interface OutboxContext {
  readonly store: Store;
  readonly envelope: EnvelopeContext;
  /** Resolves when the store is connected and its tables are there. */
  ready(): Promise<void>;
  /** Called after entries were added; their transaction may commit at any time from now on. */
  readonly onAppended: () => void;
}

/** A `Publisher` that writes into the open transaction `handle`. Its promises reject with `ERR_TX` when there is none. */
export function createOutbox(context: OutboxContext, handle: unknown): Publisher {
  const { store, envelope } = context;

  const entryOf = async (
    topic: Topic,
    payload: unknown,
    options: PublishOptions | undefined,
  ): Promise<OutboxEntry> => {
    const checked = checkPublishOptions(options);
    const encoded = encode(topic, payload, checked, envelope);
    const wire = encoded instanceof Promise ? await encoded : encoded;
    const message = checked.delayMs === 0 ? wire : delayed(wire, envelope.runtime.now() + checked.delayMs);
    return { destination: { topic: topicSpec(topic) }, message, durability: checked.durability };
  };

  const append = async (entries: readonly OutboxEntry[]): Promise<void> => {
    if (entries.length === 0) return;
    await context.ready();
    await store.outbox.append(handle, entries);
    context.onAppended();
  };

  const receiptOf = (entry: OutboxEntry): Receipt => ({
    id: entry.message.attributes["id"] ?? "",
    durability: "outbox",
    duplicate: false,
  });

  return {
    async publish(topic, payload, options) {
      const entry = await entryOf(topic, payload, options);
      await append([entry]);
      return receiptOf(entry);
    },
    /** One statement for all that can be encoded; a failing statement rejects, for it has failed the transaction. */
    async publishAll(topic, payloads, options) {
      const settled = await Promise.allSettled(
        payloads.map((payload) => entryOf(topic as Topic, payload, options)),
      );
      await append(settled.flatMap((result) => (result.status === "fulfilled" ? [result.value] : [])));
      return settled.map((result, index): PublishAllResult =>
        publishAllResult(
          index,
          result.status === "fulfilled" ? { status: "fulfilled", value: receiptOf(result.value) } : result,
        ),
      );
    },
  };
}
