/** What is taken over of what the client fetches, and what is left for it to fetch again. */
import assert from "node:assert/strict";
import type { EachBatchPayload } from "kafkajs";
import { describe, it } from "vitest";
import type { CommittedOffset } from "../../adapters/kafka/cluster.ts";
import { Intake } from "../../adapters/kafka/intake.ts";
import type { Partition, ReadRecord } from "../../adapters/kafka/partition.ts";
import { nodeRuntime } from "../../src/clock.ts";

type Committed = ReadonlyMap<string, readonly CommittedOffset[]>;

const committedAt = (offset: number): Committed =>
  new Map([["t", [{ partition: 0, offset: String(offset), metadata: "" }]]]);

/** Records `first`… as the client gives them after it has fetched from `fetched`. */
function batchOf(first: number, count: number, fetched: number = first): EachBatchPayload {
  const messages = Array.from({ length: count }, (_, i) => ({ offset: String(first + i), value: null }));
  const lastOffset = (): string => String(first + count - 1);
  return {
    batch: { topic: "t", partition: 0, messages, lastOffset, fetchedOffset: String(fetched) },
  } as never;
}

/** An intake with one partition, and what it asks of the client and tells the subscription. */
function openIntake(fetchCommitted: () => Promise<Committed>, firstKept = 0) {
  const sought: number[] = [];
  const lost: ReadRecord[] = [];
  const removed: number[] = [];
  const intake = new Intake({
    runtime: nodeRuntime,
    fetching: {
      pause: () => undefined,
      resume: () => undefined,
      seek: (_topic, _partition, offset) => void sought.push(offset),
      fetchCommitted,
      fetchFirst: async () => new Map([[0, firstKept]]),
    },
    boundOf: () => undefined,
    onReady: () => undefined,
    onLost: (records) => void lost.push(...records),
    onHop: () => undefined,
    onRemoved: (_partition, count) => void removed.push(count),
  });
  const partition = (): Partition => [...intake.partitions()][0] ?? assert.fail("no partition");
  const handOver = (): ReadRecord[] => {
    const records = partition().ready.splice(0);
    for (const record of records) partition().out.add(record);
    return records;
  };
  const ready = (): number[] => partition().ready.map(({ offset }) => offset);
  return { intake, sought, lost, removed, partition, handOver, ready };
}

describe("intake", () => {
  it("takes over also when the group changes hands before it was said where the group is", async () => {
    const answers = [Promise.withResolvers<Committed>(), Promise.withResolvers<Committed>()];
    let asked = 0;
    const { intake, ready } = openIntake(() => answers[asked++]?.promise ?? assert.fail("asked again"));
    intake.joined({ t: [0] }, false);
    intake.joined({ t: [0] }, true);
    for (const { resolve } of answers) resolve(committedAt(10));

    await intake.batch(batchOf(10, 2));

    assert.deepEqual(ready(), [10, 11]);
    intake.end();
  });

  it("fetches what the client has left out", async () => {
    const { intake, sought, ready } = openIntake(async () => committedAt(10));
    intake.joined({ t: [0] }, false);

    await intake.batch(batchOf(15, 5));
    assert.deepEqual([ready(), sought], [[], [10]]);
    await intake.batch(batchOf(10, 3));

    assert.deepEqual([ready(), sought], [[10, 11, 12], [10]]);
    intake.end();
  });

  it("passes over what is never handed out, and what nobody has", async () => {
    const { intake, sought, removed, ready } = openIntake(async () => committedAt(10));
    intake.joined({ t: [0] }, false);

    // The client says nothing of what has only control records: it may come like this again.
    await intake.batch(batchOf(15, 1));
    await intake.batch(batchOf(15, 1));
    // Compacted: fetched from where we are, and this was the next.
    await intake.batch(batchOf(20, 1, 16));

    assert.deepEqual([ready(), sought, removed], [[15, 20], [10], []]);
    intake.end();
  });

  it("tells how much was removed before it was read", async () => {
    const { intake, sought, removed, ready } = openIntake(async () => committedAt(10), 15);
    intake.joined({ t: [0] }, false);

    await intake.batch(batchOf(15, 1));

    assert.deepEqual([ready(), sought, removed], [[15], [], [5]]);
    intake.end();
  });

  it("keeps what is under way when the client fetches some of it again", async () => {
    const { intake, lost, partition, handOver, ready } = openIntake(async () => committedAt(10));
    intake.joined({ t: [0] }, false);
    await intake.batch(batchOf(10, 10));
    assert.equal(handOver().length, 10);

    await intake.batch(batchOf(15, 10));

    assert.deepEqual([lost, ready()], [[], [20, 21, 22, 23, 24]]);
    assert.equal(partition().position, 10, "a commit would pass records under way");
    intake.end();
  });

  it("begins anew where the log does", async () => {
    const { intake, lost, partition, handOver, ready } = openIntake(async () => committedAt(10));
    intake.joined({ t: [0] }, false);
    await intake.batch(batchOf(10, 10));
    const records = handOver();

    await intake.batch(batchOf(0, 2));

    assert.deepEqual(lost, records);
    assert.deepEqual([ready(), partition().position], [[0, 1], 0]);
    intake.end();
  });
});
