/** One adapter's connection to a broker in memory: its epoch, and the faults that end it. */
import type { AdapterContext, GroupSpec, MessagingError, TopicSpec } from "../../src/spi.ts";
import { LifecycleError } from "../../src/spi.ts";
import { type GroupQueue, MemoryBroker } from "./broker.ts";
import { connectionLost } from "./errors.ts";
import type { MemoryFaults, MemoryOperation } from "./faults.ts";

/** Brokers by name: `memory({ name })` and `memory:name` share one within the process. */
const brokers = new Map<string, MemoryBroker>();

export interface MemoryConnection {
  readonly broker: MemoryBroker;
  readonly faults: MemoryFaults;
  readonly context: AdapterContext;
  readonly connected: boolean;
  readonly closed: boolean;
  connect(context: AdapterContext): Promise<void>;
  /** A topic's name with the bus's prefix: what the broker knows it by. */
  nameOf(topic: TopicSpec): string;
  group(spec: GroupSpec): GroupQueue;
  /** Calls back when the connection is cut. */
  onCut(listener: () => void): () => void;
  /** Calls back when what there is now is to hang. */
  onDeafened(listener: () => void): () => void;
  /** Runs `act` with the faults around it. */
  perform<T>(operation: MemoryOperation, act: () => T): Promise<Performed<T>>;
  close(): void;
}

/** `failed`: no effect. `unanswered`: it took effect, but the answer was lost. */
type Performed<T> =
  | { readonly kind: "done"; readonly value: T }
  | { readonly kind: "failed"; readonly error: MessagingError }
  | { readonly kind: "unanswered"; readonly error: MessagingError };

export function createConnection(name: string | undefined): MemoryConnection {
  const broker = brokerOf(name);
  const listeners = new Set<() => void>();
  const deafened = new Set<() => void>();
  let context: AdapterContext | undefined;
  let connected = false;
  let closed = false;

  const connection: MemoryConnection = {
    broker,
    faults: {
      disconnect() {
        if (!connected) return;
        context?.emit({ type: "disconnected", adapter: "memory", error: connectionLost() });
        for (const listener of listeners) listener();
        context?.emit({ type: "connected", adapter: "memory" });
      },
      deafen() {
        for (const listener of deafened) listener();
      },
    },
    get context() {
      if (context === undefined)
        throw new LifecycleError("ERR_NOT_STARTED", "the memory adapter is not connected");
      return context;
    },
    get connected() {
      return connected;
    },
    get closed() {
      return closed;
    },
    async connect(given) {
      const error = await connection.faults.before?.("connect");
      if (error !== undefined) throw error;
      if (closed) throw closedError();
      context = given;
      connected = true;
      context.emit({ type: "connected", adapter: "memory" });
    },
    nameOf: (topic) => connection.context.names.topic(topic.name),
    group: ({ topic, group }) => broker.group(connection.nameOf(topic), group),
    onCut(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    onDeafened(listener) {
      deafened.add(listener);
      return () => void deafened.delete(listener);
    },
    async perform(operation, act) {
      if (closed) return { kind: "failed", error: closedError() };
      const { before, after } = connection.faults;
      const refused = before === undefined ? undefined : await before(operation);
      if (refused !== undefined) return { kind: "failed", error: refused };
      const value = act();
      const lost = after === undefined ? undefined : await after(operation);
      return lost === undefined ? { kind: "done", value } : { kind: "unanswered", error: lost };
    },
    close() {
      closed = true;
      connected = false;
    },
  };
  return connection;
}

function closedError(): LifecycleError {
  return new LifecycleError("ERR_CLOSED", "the memory adapter is closed");
}

function brokerOf(name: string | undefined): MemoryBroker {
  if (name === undefined || name === "") return new MemoryBroker();
  const known = brokers.get(name);
  if (known !== undefined) return known;
  const broker = new MemoryBroker();
  brokers.set(name, broker);
  return broker;
}
