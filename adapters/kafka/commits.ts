/** Commits what is settled: a little after it is, everything at once, and one commit at a time. */
import { type Cancel, type MessagingError, type Runtime, jittered } from "../../src/spi.ts";
import { metadataLimit } from "./commit-metadata.ts";
import { hasType, isForbidden, kafkaError } from "./errors.ts";
import type { Partition } from "./partition.ts";

/** One partition's part of a commit. */
interface PartitionCommit {
  readonly partition: number;
  readonly offset: string;
  readonly metadata: string;
}

export interface TopicCommit {
  readonly topic: string;
  readonly partitions: PartitionCommit[];
}

export interface CommitsContext {
  readonly runtime: Runtime;
  /** Most characters of metadata the broker takes. */
  readonly maxMetadata: number | undefined;
  /** Those this member owns. */
  partitions(): Iterable<Partition>;
  /** Once, bound to the member's present generation. Rejects with the client's error. */
  commit(topics: readonly TopicCommit[]): Promise<void>;
  warn(code: string, message: string): void;
}

/** How long settled messages wait for others; a process that is killed meanwhile gets them again. */
const intervalMs = 200;

export class Commits {
  readonly #context: CommitsContext;
  readonly #backoff: (attempt: number) => number;
  #metadataLimit: number;
  #cancel: Cancel | undefined;
  #running: Promise<boolean> = Promise.resolve(true);
  #failures = 0;
  #error: MessagingError | undefined;
  #ended = false;

  constructor(context: CommitsContext) {
    this.#context = context;
    this.#backoff = jittered(context.runtime, "commit", intervalMs, 5_000);
    this.#metadataLimit = Math.min(metadataLimit, context.maxMetadata ?? metadataLimit);
  }

  /** Why nothing can be committed, where that is not over by itself. */
  get error(): MessagingError | undefined {
    return this.#error;
  }

  /** Something was settled. */
  mark(): void {
    this.#schedule(intervalMs);
  }

  /**
   * Commits what there is now. Resolves with whether the broker has it. `farewell`: the member goes on well, or leaves, so
   * that what is under way is no suspect.
   */
  flush(farewell = false): Promise<boolean> {
    this.#running = this.#running.then(() => this.#flush(farewell));
    return this.#running;
  }

  end(): void {
    this.#ended = true;
    this.#cancel?.();
  }

  #schedule(ms: number): void {
    if (this.#ended || this.#cancel !== undefined) return;
    this.#cancel = this.#context.runtime.setTimer(ms, () => {
      this.#cancel = undefined;
      void this.flush();
    });
  }

  async #flush(farewell: boolean): Promise<boolean> {
    const pending = [...this.#context.partitions()].flatMap((partition) => {
      const committed = partition.pending(this.#metadataLimit, farewell);
      return committed === undefined ? [] : [{ partition, committed }];
    });
    if (pending.length === 0) return true;
    const topics = new Map<string, TopicCommit>();
    for (const { partition, committed } of pending) {
      const commit = {
        partition: partition.number,
        offset: String(committed.position),
        metadata: committed.metadata,
      };
      const topic = topics.get(partition.topic) ?? { topic: partition.topic, partitions: [] };
      topic.partitions.push(commit);
      topics.set(partition.topic, topic);
    }
    try {
      await this.#context.commit([...topics.values()]);
      for (const { partition, committed } of pending) partition.committed = committed;
      this.#failures = 0;
      this.#error = undefined;
      return true;
    } catch (cause) {
      this.#failed(cause);
      return false;
    }
  }

  /** It stays to be committed. While a group changes hands commits are refused: nothing to speak of. */
  #failed(cause: unknown): void {
    this.#failures += 1;
    if (hasType(cause, "OFFSET_METADATA_TOO_LARGE")) {
      this.#metadataLimit = 0;
      this.#context.warn(
        "KAFKA_OFFSET_METADATA",
        "the broker takes less commit metadata than it said: after a crash more messages come twice; raise offset.metadata.max.bytes to 4096",
      );
    }
    if (isForbidden(cause)) {
      this.#error = kafkaError("offsets cannot be committed", cause, "ERR_BROKER");
      this.#context.warn("KAFKA_COMMIT_FORBIDDEN", this.#error.message);
    }
    this.#schedule(this.#backoff(this.#failures));
  }
}
