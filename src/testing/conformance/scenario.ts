/** What a scenario is, and what it is given. */
import type { Adapter } from "../../adapter.ts";
import type { Bus } from "../../bus.ts";
import type { Capabilities } from "../../capabilities.ts";
import type { ConsumeOptions } from "../../consume.ts";
import type { Consumer } from "../../consumer.ts";
import type { HandlerContext } from "../../context.ts";
import type { BusOptions } from "../../create-bus.ts";
import type { BusEvent } from "../../events.ts";
import type { Store } from "../../store.ts";
import type { Topic, TopicOptions } from "../../topic.ts";

/** A transaction of the caller's own, on a connection of its own. */
export interface TestTransaction {
  /** What `bus.outbox` takes. */
  readonly handle: unknown;
  commit(): Promise<void>;
  rollback(): Promise<void>;
}

/** The database that outbox and inbox scenarios run against: a real one. */
export interface TestDatabase {
  /** A new store on this database, its tables in place. */
  store(): Promise<Store>;
  begin(): Promise<TestTransaction>;
  /** Writes an effect: a row without a unique key, so that a second one shows. `tx` is `ctx.tx` or a transaction's handle. */
  addEffect(tx: unknown, id: string): Promise<void>;
  /** All committed effects. */
  effects(): Promise<readonly string[]>;
  /** Forgets all effects; called before each scenario. */
  reset(): Promise<void>;
  /** From now on nothing can be entered into the store's inbox; the returned function ends that. */
  refuseInbox(): Promise<() => Promise<void>>;
  close(): Promise<void>;
}

/** What a program that knows nothing of the library puts on the broker: no id, no attributes. */
export interface ForeignMessage {
  readonly body: Uint8Array;
  /** Values may be any bytes. */
  readonly headers?: Readonly<Record<string, string | Uint8Array>> | undefined;
}

/** Such a program, using the broker's own client where there is one. */
export interface ForeignProducer {
  /** Most bytes of headers that its client and its broker let it write on one message. */
  readonly maxHeaderBytes: number;
  /** Publishes in this order. The topic has been declared; `topic` is its name as the API has it. */
  publish(topic: string, messages: readonly ForeignMessage[]): Promise<void>;
}

/** Faults of the broker and of the way to it. */
export interface TestFaults {
  /** From now on no answer of the broker reaches its clients; the returned function lets them through again. */
  holdReplies(): Promise<() => Promise<void>>;
  /** Resets every connection. The way is open again at once. */
  cutConnections(): Promise<void>;
  /** Every open connection goes dead without a word, as when a cable is pulled; new ones work. Asked for only of a `server`. */
  stallConnections(): Promise<void>;
  /** New connections are refused, until the returned function is called. Asked for only of a `server`. */
  refuseConnections(): Promise<() => Promise<void>>;
  /** What passes over new connections comes late and in small pieces, until the returned function is called. Asked for only of a `server`. */
  slowConnections(): Promise<() => Promise<void>>;
  /**
   * Somebody deletes what the group has on the broker, and all that waits there; where that cannot be told from the topic, the
   * topic is made anew. `topic` and `group` are names as the API has them. Asked for only of a `server`.
   */
  deleteGroup(topic: string, group: string): Promise<void>;
  /** Stops the broker and starts it again on the same data. Resolves when it answers. Asked for only of a `server`. */
  restartBroker(): Promise<void>;
  /**
   * From now on the broker takes no dead letter of the group, while everything else works; the returned function ends
   * that. The group has been declared before. `topic` and `group` are names as the API has them.
   */
  refuseDeadLetters(topic: string, group: string): Promise<() => Promise<void>>;
}

/** What is tested: an adapter on a broker, with a database beside it. */
export interface Backend {
  /**
   * What `createBackend` in another process is given to come to this very broker (by the same proxy, where there is one) and
   * this very database. Asked for only of a `persistent` adapter; without it the other process makes a backend of its own.
   */
  readonly address?: string | undefined;
  /** A new adapter on the same broker. */
  adapter(): Adapter;
  readonly database: TestDatabase;
  readonly faults: TestFaults;
  readonly foreign: ForeignProducer;
  /** Ends what `createBackend` started. Brokers that others use too go on. */
  close(): Promise<void>;
}

/**
 * What the module of a backend exports. With the `address` of a backend in another process it joins that: nothing is started
 * or emptied, and `close` leaves everything to the other.
 */
export type CreateBackend = (address?: string) => Promise<Backend>;

/** A process that a scenario has started. */
export interface Child {
  /** What it has written so far. */
  output(): string;
  /** Lets it go on after it has stopped. */
  resume(): void;
  /** Resolves when it is gone, with its exit code, or the signal that ended it. */
  readonly ended: Promise<{ readonly code: number | null; readonly signal: string | null }>;
}

export interface Received<Payload = unknown> {
  readonly payload: Payload;
  readonly id: string;
  readonly attempt: number;
  readonly context: HandlerContext<Payload, unknown>;
}

/** Takes down what a handler is given. */
export interface Recorder<Payload = unknown> {
  readonly received: readonly Received<Payload>[];
  /** Ids, each once, in order of their first arrival. */
  ids(): string[];
  /** Resolves when `count` different messages, or at least so many deliveries with `deliveries`, have come. */
  waitFor(count: number, what?: "messages" | "deliveries"): Promise<void>;
}

/** What a scenario works with. Everything it opens is closed after it. */
export interface World {
  readonly capabilities: Capabilities;
  readonly faults: TestFaults;
  readonly foreign: ForeignProducer;
  readonly database: TestDatabase;
  /** Every event of every bus of this scenario. */
  readonly events: readonly BusEvent[];
  /** A bus of its own on the same broker; `store: true` puts it over the database, a function over what it makes of the store. */
  bus(
    options?: Omit<BusOptions, "adapter" | "store"> & {
      readonly store?: boolean | ((store: Store) => Store);
    },
  ): Promise<Bus>;
  /** A topic nobody else uses. */
  topic<Payload>(options?: TopicOptions<Payload>): Topic<Payload, Payload>;
  /** Consumes with a recorder; `handler` runs after the recording. */
  consume<Payload>(
    bus: Bus,
    topic: Topic<Payload, Payload>,
    options: ConsumeOptions<Payload>,
    handler?: (payload: Payload, context: HandlerContext<Payload, unknown>) => unknown,
  ): Promise<Recorder<Payload> & { readonly consumer: Consumer }>;
  /**
   * Runs a program of `child.ts` in a process of its own, on this broker and database where they outlive a process. Killed when
   * the scenario ends.
   */
  child(program: string, options?: object): Child;
}

export interface Scenario {
  /** `"D1"`. */
  readonly id: string;
  /** One sentence of observable behaviour. */
  readonly title: string;
  /** Why it cannot run with these capabilities; `undefined` when it can. */
  readonly unsupported?: ((capabilities: Capabilities, store: Store) => string | undefined) | undefined;
  readonly run: (world: World) => Promise<void>;
}

export function scenario(
  id: string,
  title: string,
  run: (world: World) => Promise<void>,
  unsupported?: Scenario["unsupported"],
): Scenario {
  return { id, title, run, unsupported };
}
