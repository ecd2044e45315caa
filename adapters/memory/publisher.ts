import {
  type OutgoingMessage,
  type PublishResult,
  type WireMessage,
  header,
  headerTime,
  patchHeaders,
} from "../../src/spi.ts";
import type { MemoryConnection } from "./connection.ts";
import { copyMessage } from "./mapping.ts";

/** Longest delay, in milliseconds. */
export const maxDelayMs: number = 365 * 86_400_000;

const held = { [header.notBefore]: undefined };

/** Stores a batch. The whole of it is one step, as with a server that answers once per request. */
export async function publishBatch(
  connection: MemoryConnection,
  batch: readonly OutgoingMessage[],
): Promise<readonly PublishResult[]> {
  const performed = await connection.perform("publish", () =>
    batch.map((outgoing) => store(connection, outgoing)),
  );
  if (performed.kind === "failed") return batch.map(() => ({ status: "rejected", error: performed.error }));
  if (performed.kind === "unanswered")
    return batch.map(() => ({ status: "unknown", error: performed.error }));
  return performed.value;
}

function store(connection: MemoryConnection, outgoing: OutgoingMessage): PublishResult {
  const { broker, context } = connection;
  const { destination, durability } = outgoing;
  const topic = connection.nameOf(destination.topic);
  const message = copyMessage(outgoing.message);
  if (destination.group === undefined) {
    const now = context.runtime.monotonic();
    const at = dueAt(message, context.runtime.now(), now);
    // What waits here waits by this clock alone: the one on the wall may be set meanwhile.
    const stored = at === 0 ? message : { ...message, headers: patchHeaders(message.headers, held) };
    const fresh = broker.publish(topic, stored, now, at);
    return { status: "accepted", durability, duplicate: !fresh };
  }
  broker.declareGroup(topic, destination.group);
  const queue = broker.group(topic, destination.group);
  if (destination.dead === true) broker.bury(topic, queue, message);
  else broker.add(queue, message);
  return { status: "accepted", durability };
}

/** When a delayed message is due by the monotonic clock; 0 is now. What is later than any delay was not written by us. */
function dueAt({ headers }: WireMessage, wallClock: number, now: number): number {
  const delayMs = (headerTime(headers, header.notBefore) ?? 0) - wallClock;
  return delayMs > 0 && delayMs <= maxDelayMs ? now + delayMs : 0;
}
