/**
 * Messages that are prepared now and leave when their sender says so: for services whose data is not in the store, so that
 * a transaction cannot decide. Prepared, they wait in the store. `commit` moves them to the outbox; a sender that says
 * nothing, because it was killed in between, is asked: by its check, in this process or in another that has one.
 *
 * A decision is a row in the inbox, written in the transaction that takes the message out: whoever decides second, or does
 * not know whether its commit took effect, learns what was decided first.
 */
import { type CheckerContext, type Check, createChecker, maxChecks } from "./check-back.ts";
import { describe } from "./envelope.ts";
import { ConfigurationError, PublishError } from "./errors.ts";
import type { Message } from "./message.ts";
import { checkInteger, checkKeys } from "./options.ts";
import {
  type CheckedPublishOptions,
  type PublishOptions,
  type Receipt,
  checkPublishOptions,
} from "./publisher.ts";
import { entryOfText, textOfEntry } from "./outbox/entry-text.ts";
import { type OnceCall, replayInTransaction } from "./run-once.ts";
import type { OutboxEntry } from "./store.ts";
import { type Topic, checkTopic } from "./topic.ts";

/** A message that waits for its sender's decision. */
export interface Prepared {
  readonly id: string;
  /**
   * Lets it leave. Resolves once that is stored; again with the same. Rejects with `PublishError` when it was rolled back
   * before (`accepted: "no"`), with `StoreError` when the database fails: calling again tells.
   */
  commit(): Promise<Receipt>;
  /** Deletes it. Rejects with `PublishError` when it was committed before. */
  rollback(): Promise<void>;
}

export interface UndecidedMessage {
  readonly id: string;
  readonly message: Omit<Message, "payload">;
  /** How often its check was asked. */
  readonly checks: number;
  /** It is not asked about any more, until `resume`. */
  readonly parked: boolean;
}

/** The messages of a topic that nobody has decided yet. */
export interface Undecided {
  /** The oldest first, at most `limit` (1..1000, default 100). */
  list(options?: { readonly limit?: number | undefined }): Promise<readonly UndecidedMessage[]>;
  /** Has the checks of parked ones asked again, from the start: of all, or of those with these ids. Resolves with how many. */
  resume(options?: { readonly ids?: readonly string[] | undefined }): Promise<number>;
  /** A person's decision, or that of a process which knows the id. */
  commit(id: string): Promise<Receipt>;
  rollback(id: string): Promise<void>;
}

const firstCheckMs = 6_000;
/** Of the inbox. No group of a topic has such a name. */
const decisionScope = "prepared";
/** A decision is one short transaction; another that takes longer has been cut off. */
const waitMs = 10_000;

export interface PreparingContext extends CheckerContext, Pick<OnceCall, "outbox"> {
  readonly entryOf: (topic: Topic, payload: unknown, options: CheckedPublishOptions) => Promise<OutboxEntry>;
  /** Called after a message was put into the outbox. */
  readonly onCommitted: () => void;
}

export interface Preparing {
  checkBack(topic: Topic, check: Check): void;
  prepare(topic: Topic, payload: unknown, options: PublishOptions | undefined): Promise<Prepared>;
  undecided(topic: Topic): Undecided;
  /** Resolves when no check runs any more. Twice is fine. */
  close(): Promise<void>;
}

export function createPreparing(context: PreparingContext): Preparing {
  const { store, runtime } = context;

  const decide = async (topic: string, id: string, decision: "commit" | "rollback"): Promise<void> => {
    let fresh = false;
    const rowId = rowIdOf(topic, id);
    const act = async (tx: unknown): Promise<string> => {
      fresh = true;
      const text = await store.prepared.take(tx, rowId);
      if (text === undefined && decision === "commit")
        throw undecidable(id, "is not there: it was never prepared", "no");
      if (text !== undefined && decision === "commit") await store.outbox.append(tx, [entryOfText(text)]);
      return decision;
    };
    await context.ready();
    const key = { scope: decisionScope, key: rowId, redrives: 0 };
    const decided = await replayInTransaction({
      ...context,
      key,
      fn: act,
      maxBytes: 100,
      waitMs,
      signal: undefined,
    });
    // Prepared once more after it was decided.
    if (!fresh) await store.transaction((tx) => store.prepared.take(tx, rowId));
    if (decided === "commit") context.onCommitted();
    if (fresh) context.emit({ type: "decided", topic, messageId: id, decision });
    if (decided === decision) return;
    throw undecidable(
      id,
      decided === "commit" ? "was committed before" : "was rolled back before",
      decided === "commit" ? "unknown" : "no",
    );
  };

  const checker = createChecker(context, decide);
  const commit = async (topic: string, id: string): Promise<Receipt> => {
    await decide(topic, id, "commit");
    return { id, durability: "outbox", duplicate: false };
  };

  return {
    checkBack: (topic, check) => checker.add(topic, check),
    async prepare(topic, payload, options) {
      checkTopic("prepare", topic);
      const checked = checkPublishOptions(options);
      if (!checker.knows(topic.name)) {
        throw new ConfigurationError(
          "ERR_CONFIG",
          `prepare: topic "${topic.name}" has no check, so that nobody could ask what became of the work; call bus.checkBack(topic, check) first`,
        );
      }
      const entry = await context.entryOf(topic, payload, checked);
      const id = entry.message.attributes["id"] ?? "";
      await context.ready();
      checked.signal?.throwIfAborted();
      const row = { id: rowIdOf(topic.name, id), topic: topic.name, entry: textOfEntry(entry) };
      await store.prepared.add(row, firstCheckMs);
      return {
        id,
        commit: () => commit(topic.name, id),
        rollback: () => decide(topic.name, id, "rollback"),
      };
    },
    undecided: ({ name }) => ({
      async list(options = {}) {
        checkKeys("list", options, ["limit"]);
        const limit = checkInteger("list limit", options.limit ?? 100, 1, 1_000);
        await context.ready();
        const rows = await store.prepared.list(name, limit);
        return rows.map(({ entry, checks, parked }) => {
          const message = describe(name, "", entryOfText(entry).message, runtime.now());
          return { id: message.id, message, checks: Math.min(checks, maxChecks), parked };
        });
      },
      async resume(options = {}) {
        checkKeys("resume", options, ["ids"]);
        await context.ready();
        return store.prepared.resume(
          name,
          options.ids?.map((id) => rowIdOf(name, id)),
        );
      },
      commit: (id) => commit(name, id),
      rollback: (id) => decide(name, id, "rollback"),
    }),
    close: () => checker.close(),
  };
}

/** No topic has a slash in its name. */
function rowIdOf(topic: string, id: string): string {
  return `${topic}/${id}`;
}

function undecidable(messageId: string, why: string, accepted: "no" | "unknown"): PublishError {
  return new PublishError("ERR_PUBLISH", `prepared message "${messageId}" ${why}`, {
    accepted,
    messageId,
    retryable: false,
  });
}
