/**
 * One producer, one request under way. The client's idempotent producer is safe only so: a second request beside a failed
 * one takes over its sequence number, and the broker confirms it without storing it (kafkajs#1005). After any failure the
 * producer is replaced, because what it believes of its sequence numbers may be wrong.
 */
import type { Producer, RecordMetadata } from "kafkajs";
import { type Cancel, LifecycleError, type MessagingError, jittered, retryLoop } from "../../src/spi.ts";
import type { Client } from "./client.ts";
import type { KafkaConnection } from "./connection.ts";
import { hasType, isNotStored, isRefusal, kafkaError, missingTopics } from "./errors.ts";
import { type Outbound, byTopic, chunksOf, divide, topicsOf } from "./requests.ts";

/** `refused`: the broker surely does not have it. `unknown`: it may. */
export type Stored =
  | { readonly status: "stored" }
  | { readonly status: "refused" | "unknown"; readonly error: MessagingError };

/** Which of these topics are not there, as far as the broker can be asked. */
export type FindMissing = (topics: readonly string[]) => Promise<ReadonlySet<string>>;

/** How many replicas must have a record before it is confirmed: all in sync, the leader, or nobody. */
export type Acks = -1 | 0 | 1;

interface Submission {
  readonly records: readonly Outbound[];
  readonly results: Stored[];
  readonly resolve: (results: readonly Stored[]) => void;
}

interface OpenProducer {
  readonly producer: Producer;
  readonly client: Client;
}

/** Longest time for one request with all its retries; enough for the restart of a broker. */
const sendMs = 20_000;
/** When it takes so long, it is looked whether the topics are still there. */
const lookMs = 2_000;
/** How long the broker may wait for its replicas. */
const replicasMs = 8_000;
const closeMs = 2_000;
const metadataMaxAgeMs = 10_000;

export class SerialProducer {
  readonly #connection: KafkaConnection;
  readonly #acks: Acks;
  readonly #findMissing: FindMissing;
  #open: OpenProducer | undefined;
  #queue: Submission[] = [];
  #running: Promise<void> | undefined;
  #closed = false;

  constructor(connection: KafkaConnection, acks: Acks, findMissing: FindMissing) {
    this.#connection = connection;
    this.#acks = acks;
    this.#findMissing = findMissing;
  }

  /** One result per record. Never rejects. What is submitted while a request is under way goes out as the next. */
  send(records: readonly Outbound[]): Promise<readonly Stored[]> {
    if (records.length === 0) return Promise.resolve([]);
    return new Promise((resolve) => {
      this.#queue.push({ records, results: [], resolve });
      this.#running ??= this.#run();
    });
  }

  /** Ends what is under way, within seconds: its result is `unknown`. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#discard(true);
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#queue.length > 0) {
      const submissions = this.#queue;
      this.#queue = [];
      const all = submissions.flatMap(({ records }) => records);
      const results: Stored[] = [];
      for (const chunk of chunksOf(all)) results.push(...(await this.#sendChunk(chunk)));
      let from = 0;
      for (const { records, resolve } of submissions) {
        resolve(results.slice(from, from + records.length));
        from += records.length;
      }
    }
    this.#running = undefined;
  }

  /**
   * The client tells the first error of a request only. When the broker refuses a record for good, the others must not suffer:
   * each partition is sent alone, then halves, until the record is found. What was stored beside it is stored twice.
   */
  async #sendChunk(chunk: readonly Outbound[]): Promise<readonly Stored[]> {
    const answer = await this.#request(chunk);
    if ("stored" in answer) return answer.stored;
    const { error, status, divisible, missing } = answer;
    if (missing.size === 0 && (!divisible || chunk.length === 1)) return chunk.map(() => ({ status, error }));
    const results = new Map<Outbound, Stored>();
    const left = chunk.filter(({ topic }) => !missing.has(topic));
    for (const part of missing.size === 0 ? divide(chunk) : left.length === 0 ? [] : [left]) {
      const stored = await this.#sendChunk(part);
      part.forEach((record, i) => results.set(record, stored[i] as Stored));
    }
    // What is not sent again was for a topic that is gone: nobody has it.
    return chunk.map((record) => results.get(record) ?? { status: "refused", error });
  }

  async #request(chunk: readonly Outbound[]): Promise<{ readonly stored: readonly Stored[] } | Failure> {
    const { runtime } = this.#connection;
    const late = Promise.withResolvers<never>();
    let cancel: Cancel = () => undefined;
    const cancelLook = runtime.setTimer(lookMs, () => void this.#look(chunk, late.reject), { unref: true });
    let client: Client | undefined;
    let before = 0;
    try {
      cancel = runtime.setTimer(sendMs, () => late.reject(new Error(`not confirmed within ${sendMs} ms`)));
      const open = await Promise.race([this.#producer(late.promise), late.promise]);
      client = open.client;
      before = client.produceRequests;
      const sending = open.producer.sendBatch({
        acks: this.#acks,
        timeout: replicasMs,
        topicMessages: byTopic(chunk),
      });
      const stored = await Promise.race([sending, late.promise]);
      return { stored: await this.#confirm(chunk, stored) };
    } catch (error) {
      const sent = client !== undefined && client.produceRequests > before;
      await this.#discard(false);
      return this.#failure(chunk, error, sent);
    } finally {
      cancel();
      cancelLook();
      late.promise.catch(() => undefined);
    }
  }

  /** The client tries on and on to send to a topic that was deleted, and everything else waits behind it. */
  async #look(chunk: readonly Outbound[], giveUp: (error: unknown) => void): Promise<void> {
    const missing = await this.#findMissing(topicsOf(chunk));
    if (missing.size > 0) giveUp(new GivenUp(missing));
  }

  /** The client leaves out a partition it does not know, without an error: its records were never sent. */
  async #confirm(chunk: readonly Outbound[], stored: readonly RecordMetadata[]): Promise<readonly Stored[]> {
    if (this.#acks === 0) return chunk.map(() => ({ status: "stored" }));
    const confirmed = new Set(stored.map(({ topicName, partition }) => `${topicName}/${partition}`));
    const results = chunk.map(({ topic, partition }): Stored => {
      if (confirmed.has(`${topic}/${partition}`)) return { status: "stored" };
      const why = new Error(`partition ${partition} is not known to the client`);
      return {
        status: "refused",
        error: kafkaError(`cannot publish to topic "${topic}"`, why, "ERR_BROKER"),
      };
    });
    // A new producer asks for the partitions anew.
    if (results.some(({ status }) => status === "refused")) await this.#discard(false);
    return results;
  }

  #failure(chunk: readonly Outbound[], cause: unknown, sent: boolean): Failure {
    const missing = cause instanceof GivenUp ? cause.missing : new Set<string>();
    const what = `cannot publish to topic ${topicsOf(chunk)
      .map((topic) => `"${topic}"`)
      .join(", ")}`;
    const error = this.#closed
      ? new LifecycleError("ERR_CLOSED", "the kafka adapter was closed before the broker confirmed")
      : kafkaError(what, missing.size > 0 ? missingTopics(missing) : cause, "ERR_CONNECTION_LOST");
    const partitions = new Set(chunk.map(({ topic, partition }) => `${topic}/${partition}`));
    // Of several partitions one may have been stored before another failed.
    const notStored = !sent || (isNotStored(cause) && partitions.size === 1);
    return { error, status: notStored ? "refused" : "unknown", divisible: sent && isRefusal(cause), missing };
  }

  /** Nothing is sent while there is no producer: so one is tried for until it is there, or until `late`. */
  async #producer(late: Promise<never>): Promise<OpenProducer> {
    if (this.#open !== undefined) return this.#open;
    const { runtime, ended } = this.#connection;
    const backoff = jittered(runtime, "producer", 50, 1_000);
    let given = false;
    late.catch(() => (given = true));
    return retryLoop(
      (ms) => runtime.sleep(ms, ended),
      () => this.#reconnect(),
      (cause, attempt) => {
        const { retryable } = kafkaError("cannot connect a producer", cause, "ERR_CONNECTION_LOST");
        return retryable && !given && !this.#closed ? backoff(attempt) : undefined;
      },
    );
  }

  async #reconnect(): Promise<OpenProducer> {
    if (this.#closed) throw new LifecycleError("ERR_CLOSED", "the kafka adapter is closed");
    await this.#discard(false);
    if (this.#acks !== -1) return this.#connect(false);
    try {
      return await this.#connect(true);
    } catch (error) {
      // Old brokers ask for a right of its own; and the client asks for all topics here, of which one may have no leader.
      if (!hasType(error, "CLUSTER_AUTHORIZATION_FAILED", "LEADER_NOT_AVAILABLE")) throw error;
      await this.#discard(false);
      const why = error instanceof Error ? error.message : String(error);
      this.#connection.warn(
        "KAFKA_NOT_IDEMPOTENT",
        `the producer is not idempotent (${why}): a message may be stored twice when a confirmation is lost`,
      );
      return this.#connect(false);
    }
  }

  async #connect(idempotent: boolean): Promise<OpenProducer> {
    const client = this.#connection.openClient();
    const producer = client.kafka.producer({
      // The partition is chosen by the publisher, once: a retry must not choose another.
      createPartitioner:
        () =>
        ({ message }) =>
          message.partition as number,
      idempotent,
      allowAutoTopicCreation: false,
      metadataMaxAge: metadataMaxAgeMs,
      retry: client.retry,
    });
    const open = { producer, client };
    this.#open = open;
    await producer.connect();
    return open;
  }

  async #discard(gracefully: boolean): Promise<void> {
    const open = this.#open;
    if (open === undefined) return;
    this.#open = undefined;
    // Its end is of no interest: what was under way has its result.
    const ended = open.producer.disconnect().catch(() => undefined);
    if (gracefully && this.#running === undefined) await this.#connection.withinMs(closeMs, ended);
    open.client.kill();
  }
}

interface Failure {
  readonly error: MessagingError;
  readonly status: "refused" | "unknown";
  /** A part of it may be taken. */
  readonly divisible: boolean;
  /** Topics that are gone; the others were given up for their sake. */
  readonly missing: ReadonlySet<string>;
}

/** A request that is not waited for any longer, because some of its topics are gone. */
class GivenUp extends Error {
  readonly missing: ReadonlySet<string>;
  constructor(missing: ReadonlySet<string>) {
    super("given up");
    this.missing = missing;
  }
}
