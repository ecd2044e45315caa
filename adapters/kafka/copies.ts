/** Copies of a record in its group's own topics: to wait for another try, or as a dead letter. */
import type { KafkaMessage } from "kafkajs";
import type { GroupSpec, HeaderPatch, MessagingError, RawDelivery } from "../../src/spi.ts";
import type { KafkaConnection } from "./connection.ts";
import { kafkaError } from "./errors.ts";
import { type RecordParts, asDeadLetter, copyRecord, privateHeader } from "./mapping.ts";
import type { ReadRecord } from "./partition.ts";
import { type Publisher, letterKey } from "./publisher.ts";
import { tierOf } from "./tiers.ts";
import { type GroupTopics, declareGroup } from "./topology.ts";
import type { Topics } from "./topics.ts";

export interface CopiesContext {
  readonly connection: KafkaConnection;
  readonly topics: Topics;
  readonly publisher: Publisher;
}

/** Both ways resolve when the copy is confirmed, or with why it is not; they never reject. */
export class Copies {
  readonly #context: CopiesContext;
  readonly #spec: GroupSpec & { readonly maxRetryDelayMs: number };
  #topics: GroupTopics | undefined;

  constructor(context: CopiesContext, spec: GroupSpec & { readonly maxRetryDelayMs: number }) {
    this.#context = context;
    this.#spec = spec;
  }

  /** Where copies go. Told before anything is read. */
  to(topics: GroupTopics): void {
    this.#topics = topics;
  }

  /** Waits until `dueAt`, in the retry topic for delays of `delayMs`. */
  wait(
    record: ReadRecord,
    dueAt: number,
    delayMs: number,
    patch: HeaderPatch,
  ): Promise<MessagingError | undefined> {
    const { retries } = this.#topics as GroupTopics;
    const parts = copyRecord(record.message as KafkaMessage, patch);
    const headers = { ...parts.headers, [privateHeader.due]: String(dueAt) };
    const topic = retries.get(tierOf(delayMs, [...retries.keys()])) as string;
    return this.#copy(record, topic, { ...parts, headers });
  }

  bury(record: ReadRecord, delivery: RawDelivery, patch: HeaderPatch): Promise<MessagingError | undefined> {
    const { dead } = this.#topics as GroupTopics;
    const key = letterKey(delivery.topic, delivery.position, delivery.message);
    return this.#copy(record, dead, asDeadLetter(copyRecord(record.message as KafkaMessage, patch), key));
  }

  async #copy(
    { partition }: ReadRecord,
    topic: string,
    parts: RecordParts,
  ): Promise<MessagingError | undefined> {
    const { connection, topics, publisher } = this.#context;
    try {
      const outbound = await publisher.address(
        topic,
        parts,
        // The same partition again: there its key stays in the same process.
        (partitions) => partition.number % partitions,
        () => declareGroup(connection, topics, this.#spec, this.#spec.maxRetryDelayMs),
      );
      const [stored] = await publisher.send(-1, [outbound]);
      return stored?.status === "stored" ? undefined : stored?.error;
    } catch (cause) {
      return kafkaError(`cannot copy a message to "${topic}"`, cause, "ERR_CONNECTION_LOST");
    }
  }
}
