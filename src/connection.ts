/** Connecting on first use, once, and making topics exist before they are used; both with retries until `connectTimeout`. */
import type { Adapter, AdapterContext, GroupSpec, TopicSpec } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { ConfigurationError, MessagingError, TransportError } from "./errors.ts";
import type { EventListener } from "./events.ts";
import { textOf } from "./inspect.ts";
import { jittered, retryLoop } from "./retry/loop.ts";
import type { Store, StoreContext } from "./store.ts";

export interface ConnectionContext {
  readonly adapter: Adapter;
  readonly adapterContext: AdapterContext;
  readonly store: Store | undefined;
  readonly storeContext: StoreContext;
  readonly runtime: Runtime;
  readonly emit: EventListener;
  readonly connectTimeoutMs: number;
  /** Aborted when the bus closes. */
  readonly closing: AbortSignal;
}

export interface Connection {
  /** Resolves when adapter and store are connected. A failed try does not stick: the next call tries again. */
  connect(): Promise<void>;
  /** Connects, and makes sure the topic exists. */
  readyForTopic(topic: TopicSpec): Promise<void>;
  /** Connects, and makes sure the group and its topic exist. */
  readyForGroup(spec: GroupSpec): Promise<void>;
  /** Connects the store only: migrations need no broker. */
  connectStore(): Promise<void>;
  readonly connected: boolean;
}

export function createConnection(context: ConnectionContext): Connection {
  const { adapter, store, closing } = context;
  let connected = false;

  const connectAdapter = patiently(context, adapter.name, async () => {
    await adapter.connect(context.adapterContext);
    connected = true;
    if (!closing.aborted) return;
    // Closed while it was connecting: what it has opened since must not stay open.
    await adapter.close();
    throw closing.reason;
  });
  const connectStore =
    store === undefined
      ? () => Promise.resolve()
      : patiently(context, store.name, () => store.connect(context.storeContext));
  const connect = async (): Promise<void> => {
    await connectStore();
    await connectAdapter();
  };

  const known = new Map<string, TopicSpec>();
  const declare = onceEach(async (name: string, spec: TopicSpec | GroupSpec) => {
    await connect();
    const topology =
      "group" in spec ? { topics: [spec.topic], groups: [spec] } : { topics: [spec], groups: [] };
    // A broker that has just started, or lost a node, may need a moment before it can.
    await insist(context, adapter.name, `declare "${name}"`, () => adapter.declare(topology));
  });
  const declareOne = async (name: string, spec: TopicSpec | GroupSpec): Promise<void> => {
    checkSame(known, "group" in spec ? spec.topic : spec);
    await declare(name, spec);
  };

  return {
    connect,
    connectStore,
    readyForTopic: (topic) => declareOne(topic.name, topic),
    readyForGroup: (spec) => declareOne(`${spec.topic.name}--${spec.group}`, spec),
    get connected() {
      return connected;
    },
  };
}

/** Two definitions of one topic that differ would put the messages of one key into different partitions. */
function checkSame(known: Map<string, TopicSpec>, spec: TopicSpec): void {
  const before = known.get(spec.name) ?? spec;
  known.set(spec.name, before);
  if (before.partitions === spec.partitions && before.keyed === spec.keyed) return;
  const [one, other] = [before, spec].map(
    ({ partitions, keyed }) => `${partitions} partitions ${keyed ? "with" : "without"} a key`,
  );
  throw new ConfigurationError(
    "ERR_CONFIG",
    `topic "${spec.name}" is defined twice, with ${one} and with ${other}; share one defineTopic`,
  );
}

/**
 * Connects once, trying again until `connectTimeout`. A try that hangs is given up on then, but not forgotten: the next
 * call waits for it too, instead of connecting twice.
 */
function patiently(context: ConnectionContext, name: string, act: () => Promise<void>): () => Promise<void> {
  const { runtime, closing, connectTimeoutMs } = context;
  const tryOnce = once(act);
  return once(() => {
    const deadline = runtime.monotonic() + connectTimeoutMs;
    const late = (last: MessagingError | undefined): MessagingError => {
      const why = last === undefined ? "" : `: ${last.message}`;
      const message = `"${name}" did not connect within ${connectTimeoutMs} ms${why}`;
      return new TransportError("ERR_CONNECT", message, { cause: last });
    };
    return insist(context, name, "connect", (last) =>
      before(runtime, deadline, closing, tryOnce(), () => late(last)),
    );
  });
}

/**
 * Tries again, saying so, for as long as `connectTimeout` while `act` fails in a way that may pass. `act` is given the last
 * failure. `what` is such as "connect".
 */
async function insist(
  { runtime, emit, closing, connectTimeoutMs }: ConnectionContext,
  name: string,
  what: string,
  act: (last: MessagingError | undefined) => Promise<void>,
): Promise<void> {
  const backoff = jittered(runtime, "reconnect", 100, 5_000);
  const deadline = runtime.monotonic() + connectTimeoutMs;
  let last: MessagingError | undefined;
  await retryLoop(
    (ms) => runtime.sleep(ms, closing),
    () => act(last),
    (cause, attempt) => {
      if (closing.aborted) return undefined;
      const error = connectError(name, what, cause);
      const delayMs = backoff(attempt);
      if (!error.retryable || runtime.monotonic() + delayMs > deadline) return undefined;
      last = error;
      emit({ type: "reconnecting", adapter: name, attempt, delayMs, error });
      return delayMs;
    },
  ).catch((cause: unknown) => {
    throw connectError(name, what, cause);
  });
}

/** What `work` comes to, or `late()` at the deadline, or the signal's reason when it aborts. What `work` still does is ignored. */
async function before(
  runtime: Runtime,
  deadline: number,
  signal: AbortSignal,
  work: Promise<void>,
  late: () => Error,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onAbort = (): void => reject(signal.reason);
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  const cancel = runtime.setTimer(deadline - runtime.monotonic(), () => reject(late()));
  work.then(resolve, reject);
  try {
    await promise;
  } finally {
    cancel();
    signal.removeEventListener("abort", onAbort);
  }
}

function connectError(name: string, what: string, cause: unknown): MessagingError {
  if (MessagingError.is(cause)) return cause;
  return new TransportError("ERR_CONNECT", `"${name}" cannot ${what}: ${textOf(cause)}`, { cause });
}

/** Calls `act` once; everyone shares its promise. After a rejection the next call tries again. */
function once(act: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | undefined;
  return () => {
    running ??= act().catch((error: unknown) => {
      running = undefined;
      throw error;
    });
    return running;
  };
}

/** `once`, per name. */
function onceEach<T>(
  act: (name: string, argument: T) => Promise<void>,
): (name: string, argument: T) => Promise<void> {
  const each = new Map<string, () => Promise<void>>();
  return (name, argument) => {
    const known = each.get(name);
    if (known !== undefined) return known();
    const run = once(() => act(name, argument));
    each.set(name, run);
    return run();
  };
}
