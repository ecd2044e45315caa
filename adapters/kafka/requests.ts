/** What goes into one produce request: records by topic and partition, of bounded size. */
import type { Message } from "kafkajs";

/** A record on its way to one partition. */
export interface Outbound {
  readonly topic: string;
  readonly partition: number;
  readonly message: Omit<Message, "partition">;
  /** About what it takes, in bytes. */
  readonly size: number;
  /** Most bytes its topic takes in one batch, and so from one request for one partition. */
  readonly limit: number;
}

/** Most records and bytes in a request. */
const maxRecords = 1_000;
const maxRequestBytes = 8 * 1_048_576;

/** The topics of some records, each once. */
export function topicsOf(chunk: readonly Outbound[]): string[] {
  return [...new Set(chunk.map(({ topic }) => topic))];
}

/**
 * Requests of bounded size, in order: no partition gets a later record before an earlier one. All records of a request for
 * one partition are one batch, which the broker takes or refuses by its size. A record that may be too large goes alone.
 */
export function* chunksOf(records: readonly Outbound[]): Generator<readonly Outbound[]> {
  let chunk: Outbound[] = [];
  let total = 0;
  let batches = new Map<string, number>();
  for (const record of records) {
    const place = `${record.topic}/${record.partition}`;
    const batch = (batches.get(place) ?? 0) + record.size;
    const alone = record.size > record.limit;
    const full = chunk.length >= maxRecords || total + record.size > maxRequestBytes || batch > record.limit;
    if (chunk.length > 0 && (full || alone)) {
      yield chunk;
      chunk = [];
      total = 0;
      batches = new Map();
    }
    if (alone) {
      yield [record];
      continue;
    }
    chunk.push(record);
    total += record.size;
    batches.set(place, (batches.get(place) ?? 0) + record.size);
  }
  if (chunk.length > 0) yield chunk;
}

/** Smaller requests of one that was refused: by partition; one partition's in halves. */
export function divide(chunk: readonly Outbound[]): readonly (readonly Outbound[])[] {
  const parts = [...Map.groupBy(chunk, ({ topic, partition }) => `${topic}/${partition}`).values()];
  if (parts.length > 1) return parts;
  const half = Math.ceil(chunk.length / 2);
  return [chunk.slice(0, half), chunk.slice(half)];
}

/** As the client wants them. */
export function byTopic(chunk: readonly Outbound[]): { topic: string; messages: Message[] }[] {
  return Array.from(
    Map.groupBy(chunk, ({ topic }) => topic),
    ([topic, records]) => ({
      topic,
      messages: records.map(({ message, partition }) => ({ ...message, partition })),
    }),
  );
}
