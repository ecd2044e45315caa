/**
 * Once-only effects: what stands between a delivery and its handler so that a second delivery of the same message has
 * no second effect. Claim, run, then complete or release; never marked before the handler ran.
 */
import type { Runtime } from "./clock.ts";
import { createCoalescer } from "./coalesce.ts";
import { MessagingError, StoreError } from "./errors.ts";
import { textOf } from "./inspect.ts";
import type { FailedAttempt, Outcome } from "./outcome.ts";
import type { InboxAnswer, InboxClaim, InboxKey, InboxOutcome, OutboxEntry, Store } from "./store.ts";

/** Protection of a consumer's deliveries. A rejection is always the store's failure: try again, without counting an attempt. */
export interface Once {
  /** A second delivery of a message is kept from the handler while the first runs: so the first may finish though it was lost. */
  readonly protects: boolean;
  /** Runs one attempt, or says that it ran before (`duplicate`) or runs elsewhere (`later`). `handle` never rejects. */
  attempt(
    key: InboxKey,
    signal: AbortSignal,
    handle: (tx: unknown) => Promise<Attempted>,
  ): Promise<Attempted>;
  /** Before the source is settled: makes a terminal outcome durable where the store must know of it first. */
  seal(key: InboxKey, outcome: Outcome, deadLetter: () => OutboxEntry): Promise<Outcome>;
  /** After the source is settled, or given back. */
  settled(key: InboxKey, outcome: Outcome): Promise<void>;
  /** Keeps what is claimed for these deliveries; resolves with those whose claim was lost to somebody else. */
  extend(keys: readonly InboxKey[]): Promise<readonly InboxKey[]>;
}

type Attempted = Outcome | FailedAttempt;

/** How long until a message that somebody else is handling is looked at again. */
const busyDelayMs = 500;

/** `once: false`. */
export const unprotected: Once = {
  protects: false,
  attempt: (_key, _signal, handle) => handle(undefined),
  seal: (_key, outcome) => Promise.resolve(outcome),
  settled: () => Promise.resolve(),
  extend: () => Promise.resolve([]),
};

/** Thrown inside a transaction to roll it back; never leaves the function that began it. */
export const rollback: Error = new Error("rolled back by postrider");

/**
 * `once: "transaction"`: inbox row, effects and outgoing messages commit together. A dead letter leaves through the
 * outbox in the transaction that records it, so that no message ever has both an effect and a dead letter.
 */
export function onceInTransaction<Tx>(store: Store<Tx>): Once {
  const record = async (
    key: InboxKey,
    outcome: InboxOutcome,
    entries: readonly OutboxEntry[],
  ): Promise<InboxAnswer> =>
    store.transaction(async (tx) => {
      const answer = await store.inbox.record(tx, key, outcome);
      if (answer === "fresh" && entries.length > 0) await store.outbox.append(tx, entries);
      return answer;
    });

  return {
    protects: true,
    async attempt(key, signal, handle) {
      let answer: InboxAnswer = "fresh";
      let attempted = undefined as Attempted | undefined;
      const transaction = store.transaction(async (tx) => {
        answer = await store.inbox.record(tx, key, "handled");
        if (answer !== "fresh") throw rollback;
        attempted = await handle(tx);
        if (attempted.kind !== "ack") throw rollback;
      }, signal);
      try {
        await transaction;
        return { kind: "ack" };
      } catch (error) {
        if (signal.aborted) return { kind: "failed", error: signal.reason };
        if (answer !== "fresh") return answerOutcome(answer) as Outcome;
        // Not committed for sure, even when the database failed at the rollback, perhaps by the handler's doing.
        if (attempted !== undefined && attempted.kind !== "ack") return attempted;
        const failure = storeError(error);
        // What the database refuses for good at the commit (a deferred constraint) is the fault of what was written.
        if (attempted !== undefined && !failure.retryable) return { kind: "failed", error: failure };
        throw failure;
      }
    },
    async seal(key, outcome, deadLetter) {
      if (outcome.kind !== "deadLetter" && outcome.kind !== "discard") return outcome;
      const dead = outcome.kind === "deadLetter";
      const answer = await record(key, dead ? "dead" : "discarded", dead ? [deadLetter()] : []).catch(
        rethrowAsStoreError,
      );
      return answerOutcome(answer) ?? (dead ? { ...outcome, stored: true } : outcome);
    },
    settled: () => Promise.resolve(),
    extend: () => Promise.resolve([]),
  };
}

/** `once: "lease"`: a claim in the store while the handler runs, its outcome after. For effects outside the database. */
export function onceByLease(store: Store, runtime: Runtime, leaseMs: number): Once {
  /** By delivery, not by key: a second delivery of the same message in this process must find it claimed. */
  const held = new Map<InboxKey, InboxClaim>();
  /** One token per delivery: a claim whose answer was lost is asked for again by the same one. */
  const tokens = new WeakMap<InboxKey, string>();
  const batch = { runtime, maxBatch: 100, maxInFlight: 2 };
  const claims = createCoalescer<InboxClaim, InboxAnswer>({
    ...batch,
    send: (items) => store.inbox.claim(items, leaseMs),
  });
  const completions = createCoalescer<InboxClaim & { readonly outcome: InboxOutcome }, void>({
    ...batch,
    send: (items) => store.inbox.complete(items).then(() => items.map(() => undefined)),
  });

  const complete = async (key: InboxKey, outcome: InboxOutcome): Promise<void> => {
    const claim = held.get(key);
    if (claim === undefined) return;
    await completions.push({ ...claim, outcome }).catch(rethrowAsStoreError);
    held.delete(key);
  };

  const release = async (key: InboxKey): Promise<void> => {
    const claim = held.get(key);
    if (claim === undefined) return;
    held.delete(key);
    await store.inbox.release([claim]).catch(rethrowAsStoreError);
  };

  return {
    protects: true,
    async attempt(key, _signal, handle) {
      if (!held.has(key)) {
        const token = tokens.get(key) ?? runtime.newId();
        tokens.set(key, token);
        const claim = { ...key, token };
        const elsewhere = answerOutcome(await claims.push(claim).catch(rethrowAsStoreError));
        if (elsewhere !== undefined) return elsewhere;
        held.set(key, claim);
      }
      return handle(undefined);
    },
    async seal(key, outcome) {
      if (outcome.kind === "ack") await complete(key, "handled");
      if (outcome.kind === "discard") await complete(key, "discarded");
      return outcome;
    },
    settled: (key, outcome) => (outcome.kind === "deadLetter" ? complete(key, "dead") : release(key)),
    async extend(keys) {
      const mine = keys.filter((key) => held.has(key));
      if (mine.length === 0) return [];
      const kept = await store.inbox.extend(
        mine.map((key) => held.get(key) as InboxClaim),
        leaseMs,
      );
      // One that ended meanwhile is not lost.
      return mine.filter((key, i) => kept[i] === false && held.has(key));
    },
  };
}

function answerOutcome(answer: InboxAnswer): Outcome | undefined {
  if (answer === "duplicate") return { kind: "duplicate" };
  if (answer === "busy") return { kind: "later", delayMs: busyDelayMs };
  return undefined;
}

function rethrowAsStoreError(error: unknown): never {
  throw storeError(error);
}

/** Whatever a store throws is the store's failure, never the handler's. */
export function storeError(error: unknown): MessagingError {
  if (MessagingError.is(error)) return error;
  return new StoreError("ERR_STORE", `the store failed: ${textOf(error)}`, { cause: error });
}
