/** Publishes one row of the outbox, and says what became of it. */
import type { ErrorCode, MessagingError, PublishError } from "../errors.ts";
import type { EventListener } from "../events.ts";
import type { Producer } from "../producer.ts";
import type { OutboxRow, OutboxStore } from "../store.ts";
import type { LowWater } from "./low-water.ts";
import type { ParkedTopics } from "./parked-topics.ts";
import type { RowResult } from "./transit.ts";

const sendTimeoutMs = 10_000;

/** About the message: no later try can succeed. */
const permanent: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "ERR_TOO_LARGE",
  "ERR_ENCODE",
  "ERR_HEADER",
  "ERR_ID",
  "ERR_CAPABILITY",
]);
/** About the destination: its topic waits, others go on. Anything else is about the connection: all wait. */
const refusals: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "ERR_NO_ROUTE",
  "ERR_DESTINATION",
  "ERR_TOPOLOGY",
  "ERR_BROKER_FULL",
  "ERR_PUBLISH",
]);

export interface PublishRowContext {
  readonly outbox: OutboxStore;
  readonly producer: Producer;
  readonly emit: EventListener;
  readonly epoch: bigint;
  readonly lowWater: LowWater;
  /** `undefined`: a topic that refuses makes the others wait. */
  readonly topics: ParkedTopics | undefined;
  readonly onError: (error: MessagingError) => void;
}

/** Rejects with what the store throws. */
export async function publishRow(context: PublishRowContext, row: OutboxRow): Promise<RowResult> {
  const { outbox, producer, emit, epoch, lowWater, topics } = context;
  const topic = row.destination.topic.name;
  try {
    await producer.send({ ...row, requireRoute: true }, sendTimeoutMs);
    topics?.accepted(topic);
    return "sent";
  } catch (cause) {
    const error = cause as PublishError;
    if (permanent.has(error.code)) {
      const { fenced } = await outbox.park(row, epoch, error.message);
      if (fenced) return "refused";
      lowWater.gone([row.seq]);
      emit({ type: "relayParked", topic, messageId: error.messageId, error });
      return "parked";
    }
    context.onError(error);
    const delayMs = refusals.has(error.code) ? topics?.refused(topic) : undefined;
    emit({ type: "relayFailed", error, delayMs: delayMs ?? 0 });
    return delayMs === undefined ? "failed" : "refused";
  }
}
