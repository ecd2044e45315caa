/** One member of a consumer group: a session at a time, and the next one whenever it is over. */
import type { ConsumerGroupJoinEvent } from "kafkajs";
import {
  type Cancel,
  type MessagingError,
  type SubscriptionHealth,
  TransportError,
  jittered,
  retryLoop,
} from "../../src/spi.ts";
import { type Partitions, fetchCommitted, fetchEnds } from "./cluster.ts";
import type { TopicCommit } from "./commits.ts";
import type { KafkaConnection } from "./connection.ts";
import { kafkaError } from "./errors.ts";
import { Session, type SessionSpec } from "./session.ts";

export interface MemberSpec extends Omit<SessionSpec, "onJoined"> {
  /** Makes what it needs on the broker, and names the topics to read. Called before each session. */
  prepare(): Promise<readonly string[]>;
  /** It has these from now on. `continued`: nobody else can have finished anything in what it had before and keeps. */
  onJoined(assignment: Partitions, continued: boolean): void;
  /** It has nothing any more. */
  onLost(): void;
}

/** Without a sign of life for so long it is not consuming. */
const silentMs = 10_000;
/** A broker that has just started has coordinators that have not; the client takes that for an end. */
const startMs = 10_000;
/** The group may wait longer for a member that died: nothing is missed meanwhile, so nobody else needs to. */
const patienceMs = 5_000;
const closeMs = 3_000;

export class GroupMember {
  readonly #connection: KafkaConnection;
  readonly #spec: MemberSpec;
  readonly #closing = new AbortController();
  #session: Session | undefined;
  /** The end of the session before, which the group must not wait for. */
  #ending: Promise<void> = Promise.resolve();
  #memberId: string | undefined;
  #error: MessagingError | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(connection: KafkaConnection, spec: MemberSpec) {
    this.#connection = connection;
    this.#spec = spec;
  }

  /**
   * Resolves when it has joined, or waits to be let in; rejects when it cannot. After that it mends itself. Where the group
   * begins, or went on, is fixed either way.
   */
  async start(): Promise<void> {
    const { runtime } = this.#connection;
    const first = this.#openPatiently();
    let cancel: Cancel = () => undefined;
    const patience = new Promise<void>((resolve) => (cancel = runtime.setTimer(patienceMs, resolve)));
    try {
      await Promise.race([first, patience]);
      this.#running = this.#keep(first);
    } finally {
      cancel();
    }
  }

  /** Committed offsets of its group, with their metadata. Rejects with the client's error. */
  async fetchCommitted(partitions: Partitions): ReturnType<typeof fetchCommitted> {
    return fetchCommitted(this.#live.coordinators, this.#spec.groupId, partitions);
  }

  /** The first offset that is kept, by partition. Rejects with the client's error. */
  async fetchFirst(topic: string): ReturnType<typeof fetchEnds> {
    return fetchEnds(this.#live.cluster, topic, "first");
  }

  async commit(topics: readonly TopicCommit[]): Promise<void> {
    await this.#live.commit(topics);
  }

  pause(topic: string, partition: number): void {
    this.#session?.pause(topic, partition);
  }

  resume(topic: string, partition: number): void {
    this.#session?.resume(topic, partition);
  }

  seek(topic: string, partition: number, offset: number): void {
    this.#session?.seek(topic, partition, offset);
  }

  /** Cached, no I/O. */
  health(): SubscriptionHealth {
    const silence = this.#session?.silence ?? Infinity;
    const consuming = this.#memberId !== undefined && silence < silentMs;
    return { consuming, error: consuming ? undefined : this.#error, silentMs: silence };
  }

  /** Leaves the group. Bounded. */
  async stop(): Promise<void> {
    this.#closing.abort(new TransportError("ERR_CONNECTION_LOST", "the consumer is closing"));
    await this.#session?.end();
    await this.#connection.withinMs(closeMs, this.#running);
  }

  get #live(): Session {
    if (this.#session !== undefined) return this.#session;
    throw new TransportError("ERR_CONNECTION_LOST", "the consumer is not connected");
  }

  /** The first session; what passes by itself is waited for. */
  #openPatiently(): Promise<Session> {
    const { runtime } = this.#connection;
    const backoff = jittered(runtime, "consumer", 100, 1_000);
    const deadline = runtime.monotonic() + startMs;
    return retryLoop(
      (ms) => runtime.sleep(ms, this.#closing.signal),
      () => this.#open(),
      (error, attempt) => {
        const again = (error as MessagingError).retryable && runtime.monotonic() < deadline;
        return again && !this.#closing.signal.aborted ? backoff(attempt) : undefined;
      },
    );
  }

  /** Waits for each end and starts again, with growing waits, until it is stopped. */
  async #keep(first: Promise<Session>): Promise<void> {
    const { runtime } = this.#connection;
    const backoff = jittered(runtime, "consumer", 100, 5_000);
    let opening: Promise<Session> | undefined = first;
    const live = async (): Promise<void> => {
      const session = await (opening ?? this.#open());
      await session.over;
    };
    let failures = 0;
    const nextDelay = (cause: unknown): number | undefined => {
      opening = undefined;
      if (this.#closing.signal.aborted) return undefined;
      // One that had joined begins to count anew.
      failures = this.#memberId === undefined ? failures + 1 : 1;
      const delayMs = backoff(failures);
      const error = this.#lose(cause);
      const event = { type: "reconnecting", adapter: "kafka", attempt: failures, delayMs, error } as const;
      this.#connection.context.emit(event);
      return delayMs;
    };
    await retryLoop((ms) => runtime.sleep(ms, this.#closing.signal), live, nextDelay).catch(() => undefined);
  }

  #lose(cause: unknown): MessagingError {
    const { groupId } = this.#spec;
    const error = kafkaError(`the consumer of group "${groupId}" stopped`, cause, "ERR_CONNECTION_LOST");
    this.#error = error;
    this.#ending = this.#session?.end() ?? this.#ending;
    this.#session = undefined;
    this.#memberId = undefined;
    this.#spec.onLost();
    return error;
  }

  /** A session that has joined. Rejects when it could not, with the library's error. */
  async #open(): Promise<Session> {
    const { groupId } = this.#spec;
    try {
      await this.#ending;
      this.#closing.signal.throwIfAborted();
      const topics = await this.#spec.prepare();
      this.#closing.signal.throwIfAborted();
      const session = new Session(this.#connection, {
        ...this.#spec,
        onJoined: (joined) => this.#joined(session, joined),
      });
      this.#session = session;
      await Promise.race([session.join(topics), session.over]);
      this.#closing.signal.throwIfAborted();
      this.#error = undefined;
      return session;
    } catch (cause) {
      const error = kafkaError(`cannot consume as group "${groupId}"`, cause, "ERR_CONNECTION_LOST");
      this.#error = error;
      this.#ending = this.#session?.end() ?? this.#ending;
      throw error;
    }
  }

  #joined(session: Session, { memberId, memberAssignment }: ConsumerGroupJoinEvent["payload"]): void {
    if (session !== this.#session) return;
    const continued = this.#memberId === memberId;
    this.#memberId = memberId;
    this.#spec.onJoined(memberAssignment, continued);
  }
}
