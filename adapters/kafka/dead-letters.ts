/**
 * The dead letters of a group: a compacted log, keyed so that a message has one entry, where a removal is a tombstone. A cursor
 * reads it twice: first for what is left of each message, then, page by page, for the letters themselves; so it holds keys in
 * memory, never all the bodies.
 */
import type { Cluster, KafkaMessage } from "kafkajs";
import type { DeadLetterCursor, GroupSpec, StoredDeadLetter } from "../../src/spi.ts";
import { type OpenCluster, fetchEnds, readPage } from "./cluster.ts";
import type { KafkaConnection } from "./connection.ts";
import { kafkaError } from "./errors.ts";
import { fromDeadLetter } from "./mapping.ts";
import type { Publisher } from "./publisher.ts";

export interface DeadLettersContext {
  readonly connection: KafkaConnection;
  readonly publisher: Publisher;
}

/** A record that is the latest of its key and no tombstone. */
interface Live {
  readonly key: string;
  readonly offset: number;
  readonly partition: number;
}

interface Log {
  readonly cluster: Cluster;
  readonly topic: string;
  readonly ends: ReadonlyMap<number, number>;
}

/** The letters there are now. Rejects with the library's error. */
export async function openCursor(context: DeadLettersContext, spec: GroupSpec): Promise<DeadLetterCursor> {
  const { connection } = context;
  const topic = connection.names.dead(spec.topic.name, spec.group);
  const fail = (cause: unknown): never => {
    throw kafkaError(`cannot read dead letters from "${topic}"`, cause, "ERR_CONNECTION_LOST");
  };
  const opened = await connection.openCluster([topic]).catch(fail);
  try {
    const ends = await fetchEnds(opened.cluster, topic, "next");
    const log = { cluster: opened.cluster, topic, ends };
    return cursorOver(context, log, await liveLetters(log), opened, fail);
  } catch (cause) {
    await opened.close();
    return fail(cause);
  }
}

function cursorOver(
  { publisher }: DeadLettersContext,
  log: Log,
  live: readonly (readonly Live[])[],
  opened: OpenCluster,
  fail: (cause: unknown) => never,
): DeadLetterCursor {
  /** All records of a message, by that of the letter shown for it: the latest. */
  const byPlace = new Map(live.map((records) => [placeOf(records.at(-1) as Live), records]));
  const letters = readRecords(log, new Set(byPlace.keys()));
  return {
    async read(limit) {
      const page: StoredDeadLetter[] = [];
      while (page.length < limit) {
        const { value, done } = await letters.next().catch(fail);
        if (done === true) break;
        const [place, record] = value;
        page.push({ message: fromDeadLetter(record), position: place, token: byPlace.get(place) });
      }
      return page;
    },
    async remove(stored) {
      const records = stored.flatMap(({ token }) => token as readonly Live[]);
      const outbound = await Promise.all(
        records.map(({ key, partition }) =>
          publisher.address(log.topic, { key: Buffer.from(key), value: null, headers: {} }, () => partition),
        ),
      );
      const results = await publisher.send(-1, outbound);
      for (const result of results) if (result.status !== "stored") throw result.error;
    },
    close: () => opened.close(),
  };
}

/** What is left of each message, in the order of its latest letter; several when it was redriven and failed again. */
async function liveLetters(log: Log): Promise<readonly (readonly Live[])[]> {
  const latest = new Map<string, Live>();
  for await (const { record, partition } of readAll(log)) {
    const key = record.key?.toString() ?? "";
    latest.delete(key);
    // Deleted first, so that the map stays in the order of the latest.
    if (record.value !== null) latest.set(key, { key, offset: Number(record.offset), partition });
  }
  const messages = new Map<string, Live[]>();
  for (const live of latest.values()) {
    const id = live.key.slice(live.key.indexOf(":") + 1);
    const known = messages.get(id) ?? [];
    messages.delete(id);
    messages.set(id, [...known, live]);
  }
  return [...messages.values()];
}

async function* readRecords(log: Log, places: ReadonlySet<string>): AsyncGenerator<[string, KafkaMessage]> {
  if (places.size === 0) return;
  for await (const { record, partition } of readAll(log)) {
    const place = placeOf({ partition, offset: Number(record.offset) });
    if (places.has(place)) yield [place, record];
  }
}

/** Everything that was there when the cursor was opened. */
async function* readAll({
  cluster,
  topic,
  ends,
}: Log): AsyncGenerator<{ record: KafkaMessage; partition: number }> {
  const firsts = await fetchEnds(cluster, topic, "first");
  for (const [partition, end] of ends) {
    let next = firsts.get(partition) ?? 0;
    while (next < end) {
      const page = await readPage(cluster, topic, partition, next);
      for (const record of page) {
        if (Number(record.offset) >= end) break;
        yield { record, partition };
      }
      // Compaction can leave batches without a record, of which the client says nothing: step over them.
      next = page.length === 0 ? next + 1 : Number(page.at(-1)?.offset) + 1;
    }
  }
}

function placeOf({ partition, offset }: Pick<Live, "partition" | "offset">): string {
  return `${partition}@${offset}`;
}
