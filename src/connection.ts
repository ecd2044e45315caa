/** Connecting on first use, once, with retries until `connectTimeout`; and making topics exist before they are used. */
import type { Adapter, AdapterContext, GroupSpec, TopicSpec } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { MessagingError, TransportError } from "./errors.ts";
import type { EventListener } from "./events.ts";
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
  const { adapter, store, runtime, emit, closing } = context;
  const backoff = jittered(runtime, "reconnect", 100, 5_000);
  let connected = false;

  const connectAdapter = once(async () => {
    const deadline = runtime.monotonic() + context.connectTimeoutMs;
    await retryLoop(
      (ms) => runtime.sleep(ms, closing),
      () => adapter.connect(context.adapterContext),
      (cause, attempt) => {
        const error = MessagingError.is(cause)
          ? cause
          : new TransportError("ERR_CONNECT", `adapter "${adapter.name}" cannot connect: ${String(cause)}`, {
              cause,
            });
        const delayMs = backoff(attempt);
        if (!error.retryable || runtime.monotonic() + delayMs > deadline) return undefined;
        emit({ type: "reconnecting", adapter: adapter.name, attempt, delayMs, error });
        return delayMs;
      },
    );
    connected = true;
  });

  const connectStore = once(async () => store?.connect(context.storeContext));
  const connect = async (): Promise<void> => {
    await connectStore();
    await connectAdapter();
  };

  const declare = onceEach(async (name: string, spec: TopicSpec | GroupSpec) => {
    await connect();
    const isGroup = "group" in spec;
    await adapter.declare(
      isGroup ? { topics: [spec.topic], groups: [spec] } : { topics: [spec], groups: [] },
    );
  });

  return {
    connect,
    connectStore,
    readyForTopic: (topic) => declare(topic.name, topic),
    readyForGroup: (spec) => declare(`${spec.topic.name}--${spec.group}`, spec),
    get connected() {
      return connected;
    },
  };
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
