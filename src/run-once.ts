/**
 * `bus.once`: a function runs once per key and its result is stored with the key, in the inbox, so that whoever repeats the
 * call gets the result instead of the effects. In a transaction, result and effects commit together; by lease, the result
 * is stored after effects that are elsewhere.
 */
import type { Runtime } from "./clock.ts";
import { json } from "./codec.ts";
import { type Duration, toMs } from "./duration.ts";
import { checkId } from "./envelope.ts";
import { CodecError, StoreError } from "./errors.ts";
import { rollback, storeError } from "./once.ts";
import { checkFunction, checkKeys, checkOneOf, checkString } from "./options.ts";
import type { Publisher } from "./publisher.ts";
import { jittered, retryLoop } from "./retry/loop.ts";
import type { InboxClaim, InboxKey, Store, StoredResult } from "./store.ts";

interface CommonOptions {
  /** What the key is unique in, at most 200 characters, such as `"charge"`. Default: one for all keys of the store. */
  readonly scope?: string | undefined;
  /** How long to wait for another call that is running with the key; then `ERR_CLAIM_HELD`. Default `"10s"`, `0` not at all. */
  readonly wait?: Duration | undefined;
  /** Ends the wait. In a transaction, rolls it back; by lease, aborts the signal that the function was given. */
  readonly signal?: AbortSignal | undefined;
}

export interface OnceOptions extends CommonOptions {
  readonly by?: "transaction" | undefined;
}

export interface OnceByLeaseOptions extends CommonOptions {
  readonly by: "lease";
  /** How long the key stays taken when this process dies; extended while the function runs. Default `"30s"`. */
  readonly lease?: Duration | undefined;
}

export interface RunOnceContext {
  readonly store: Store;
  readonly runtime: Runtime;
  /** Largest result in bytes, as JSON. */
  readonly maxBytes: number;
  readonly outbox: (tx: unknown) => Publisher;
  /** Resolves when the store can be used. */
  readonly ready: () => Promise<void>;
}

/** One call, its options checked. */
export interface OnceCall extends Omit<RunOnceContext, "ready"> {
  readonly key: InboxKey;
  readonly fn: (...given: never[]) => unknown;
  readonly waitMs: number;
  readonly signal: AbortSignal | undefined;
}

const defaultWait = "10s";

/** See `Bus.once`. Options are checked before anything is done. */
export async function runOnce(
  context: RunOnceContext,
  key: string,
  fn: (...given: never[]) => unknown,
  options: OnceOptions | OnceByLeaseOptions,
): Promise<unknown> {
  const common = ["scope", "wait", "signal", "by"];
  checkKeys("once", options, [...common, "lease"]);
  checkFunction("once", fn);
  const { by = "transaction", scope = "", wait = defaultWait, signal } = options;
  checkOneOf("once by", by, ["transaction", "lease"]);
  if (options.by !== "lease") checkKeys('once by "transaction"', options, common);
  // No group of a topic has such a name.
  const inboxScope = `once:${scope === "" ? "" : checkString("once scope", scope, 200)}`;
  const name = { scope: inboxScope, key: checkId("once key", key), redrives: 0 };
  const call: OnceCall = { ...context, key: name, fn, waitMs: toMs(wait, "once wait"), signal };
  const leaseMs = options.by === "lease" ? leaseOf(options) : undefined;
  await context.ready();
  signal?.throwIfAborted();
  return leaseMs === undefined ? replayInTransaction(call) : replayByLease(call, leaseMs);
}

function leaseOf({ lease = "30s" }: OnceByLeaseOptions): number {
  return toMs(lease, "once lease", { min: 1_000, max: 43_200_000 });
}

export async function replayInTransaction(call: OnceCall): Promise<unknown> {
  return resultOf(await whenFree(call, () => runInTransaction(call)));
}

async function replayByLease(call: OnceCall, leaseMs: number): Promise<unknown> {
  const claim = { ...call.key, token: call.runtime.newId() };
  return resultOf(await whenFree(call, () => runByLease(call, claim, leaseMs)));
}

/** Where another call has the key: it has ended, with this; or it has not, and is asked for again. */
type Attempt = StoredResult | "duplicate" | "busy";

function whenFree(call: OnceCall, attempt: () => Promise<Attempt>): Promise<StoredResult> {
  const { runtime, store, key, signal, waitMs } = call;
  const deadline = runtime.monotonic() + waitMs;
  const backoff = jittered(runtime, "once", 20, 1_000);
  const held = new StoreError(
    "ERR_CLAIM_HELD",
    `another call is running with the key "${key.key}" and has not ended within ${waitMs} ms; try again later`,
  );
  return retryLoop(
    (ms) => runtime.sleep(ms, signal),
    async () => {
      const ended = await attempt();
      if (typeof ended === "object") return ended;
      const stored = ended === "busy" ? undefined : await store.inbox.findResult(key);
      if (stored !== undefined) return stored;
      throw held;
    },
    (error, n) => {
      const delayMs = backoff(n);
      return error === held && runtime.monotonic() + delayMs <= deadline ? delayMs : undefined;
    },
  );
}

async function runInTransaction(call: OnceCall): Promise<Attempt> {
  const { store, key, fn, signal, outbox } = call;
  let answer: "duplicate" | "busy" | undefined;
  try {
    return await store.transaction(async (tx) => {
      const recorded = await store.inbox.record(tx, key, "handled");
      if (recorded !== "fresh") {
        answer = recorded;
        throw rollback;
      }
      const result = textOf(await fn(tx as never, outbox(tx) as never), call);
      if (result !== undefined) await store.inbox.keepResult(tx, key, result);
      return { result };
    }, signal);
  } catch (error) {
    if (error !== rollback || answer === undefined) throw error;
    return answer;
  }
}

async function runByLease(call: OnceCall, claim: InboxClaim, leaseMs: number): Promise<Attempt> {
  const { store, fn, signal } = call;
  const lease = holdLease(call, claim, leaseMs);
  try {
    let result: string | undefined;
    try {
      const [answer = "busy"] = await store.inbox.claim([claim], leaseMs);
      if (answer !== "fresh") return answer;
      lease.held();
      signal?.throwIfAborted();
      result = textOf(await fn(lease.signal as never), call);
    } catch (error) {
      // One that cannot be let go runs out by itself.
      await store.inbox.release([claim]).catch(() => undefined);
      throw error;
    }
    return await complete(call, { ...claim, outcome: "handled", result }, lease);
  } finally {
    lease.end();
  }
}

/** The effects are there: their result is insisted on for as long as the claim holds. */
function complete(
  { store, runtime }: OnceCall,
  ended: Parameters<Store["inbox"]["complete"]>[0][number],
  lease: Lease,
): Promise<StoredResult> {
  const backoff = jittered(runtime, "once", 50, 2_000);
  return retryLoop(
    (ms) => runtime.sleep(ms),
    async () => {
      await store.inbox.complete([ended]);
      // Another call's, if that took the claim over and ended: then everybody has the same.
      const stored = await store.inbox.findResult(ended);
      if (stored !== undefined) return stored;
      throw new StoreError(
        "ERR_LEASE_LOST",
        `the claim on "${ended.key}" was lost to another call, and the result is not stored; try again to get the other's`,
      );
    },
    (_error, n) => {
      const delayMs = backoff(n);
      return runtime.monotonic() + delayMs < lease.until ? delayMs : undefined;
    },
  ).catch((error: unknown) => {
    throw storeError(error);
  });
}

interface Lease {
  /** Aborted when the claim is lost, or by the caller's signal. */
  readonly signal: AbortSignal;
  /** By `runtime.monotonic()`, as far as this process knows. */
  readonly until: number;
  /** It has been claimed: extends it from now on. */
  held(): void;
  end(): void;
}

/** Made before the claim is asked for: its time runs from then. */
function holdLease({ store, runtime, signal }: OnceCall, claim: InboxClaim, leaseMs: number): Lease {
  const work = new AbortController();
  const ended = new AbortController();
  let until = runtime.monotonic() + leaseMs;
  const onAbort = (): void => work.abort(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });

  const extend = async (): Promise<void> => {
    for (;;) {
      await runtime.sleep(leaseMs / 3, ended.signal);
      const asked = runtime.monotonic();
      // One that fails is not the end: the next may succeed before the claim has run out.
      const [kept] = await store.inbox.extend([claim], leaseMs).catch(() => [undefined]);
      if (kept === true) until = asked + leaseMs;
      if (ended.signal.aborted || (kept !== false && runtime.monotonic() < until)) continue;
      until = 0;
      work.abort(new StoreError("ERR_LEASE_LOST", `the claim on "${claim.key}" was lost to another call`));
      return;
    }
  };

  return {
    signal: work.signal,
    get until() {
      return until;
    },
    // It rejects only when the lease has ended, which ends the sleep.
    held: () => void extend().catch(() => undefined),
    end() {
      ended.abort();
      signal?.removeEventListener("abort", onAbort);
    },
  };
}

/** Nothing stays nothing; all else must be JSON. Throws `CodecError`. */
function textOf(result: unknown, { key, maxBytes }: OnceCall): string | undefined {
  if (result === undefined) return undefined;
  const refuse = (code: "ERR_ENCODE" | "ERR_TOO_LARGE", why: string, cause?: unknown): never => {
    throw new CodecError(code, `the result for "${key.key}" cannot be stored: ${why}`, { cause });
  };
  let bytes: Uint8Array;
  try {
    bytes = json.encode(result);
  } catch (cause) {
    return refuse("ERR_ENCODE", (cause as Error).message.replace(/^payload/u, "the value"), cause);
  }
  if (bytes.byteLength > maxBytes) {
    const [size, limit] = [bytes.byteLength, maxBytes].map((n) => n.toLocaleString("en-US"));
    return refuse("ERR_TOO_LARGE", `${size} > ${limit} bytes; store it elsewhere and return a reference`);
  }
  return Buffer.from(bytes).toString("utf8");
}

function resultOf({ result }: StoredResult): unknown {
  return result === undefined ? undefined : json.decode(Buffer.from(result));
}
