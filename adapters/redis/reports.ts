/** What a subscription has to say, in words. */
import type { GroupSpec, MessagingError } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import { requestError } from "./errors.ts";

export interface Reports {
  /** Entries were deleted before anybody settled them. */
  readonly deleted: (count: number) => void;
  /** Entries were deleted while they were handled here. */
  readonly orphaned: (count: number) => void;
  /** The group was missing and was made again; `count` deliveries were lost with it. */
  readonly vanished: (count: number) => void;
  /** Deferred copies that are due cannot be moved. */
  readonly delayed: (why: string) => void;
  /** An ordered group has another number of partitions than asked for. */
  readonly otherPartitions: (partitions: number) => void;
  readonly notReceiving: (error: MessagingError) => void;
  /** What every group has settled could not be removed. */
  readonly notTrimmed: (cause: unknown) => void;
}

export function createReports(connection: RedisConnection, spec: GroupSpec): Reports {
  const topic = spec.topic.name;
  const { group } = spec;
  const name = `"${topic}--${group}"`;
  const lost = (count: number, message: string): void =>
    connection.emit({ type: "lost", topic, group, count, message });
  return {
    deleted(count) {
      if (count === 0) return;
      lost(
        count,
        `${count} messages of ${name} were deleted from the stream (XTRIM, XDEL, MAXLEN) before they were settled`,
      );
    },
    orphaned(count) {
      const message = `${count} messages of ${name} were deleted from the stream (XTRIM, XDEL, MAXLEN) while they were handled; they are lost if this process ends before they are settled`;
      connection.emit({ type: "warning", code: "REDIS_DELETED", message });
    },
    vanished(count) {
      lost(
        count,
        `the stream or group of ${name} vanished from Redis (FLUSHALL, DEL, XGROUP DESTROY, a failover to an empty server) and was made again; what was in it is lost, ${count} messages being handled among it`,
      );
    },
    delayed: (why) => connection.warn("REDIS_DELAYED", `deferred messages of ${name} wait: ${why}`),
    notTrimmed(cause) {
      const error = requestError("trimming", cause);
      // Both are said, and mended, by reading.
      if (error.code === "ERR_CONNECTION_LOST" || error.reply === "NOGROUP") return;
      connection.warn("REDIS_TRIM", `what was settled stays in the stream of ${name}: ${error.message}`);
    },
    otherPartitions(partitions) {
      const asked = spec.topic.partitions;
      const message = `${name} is read in ${partitions} partitions, not in ${asked}, as long as instances run that began so. Stop all of them at once to change it.`;
      connection.warn("REDIS_PARTITIONS", message);
    },
    notReceiving: (error) => connection.warn("REDIS_CONSUMER", `${name} does not receive: ${error.message}`),
  };
}
