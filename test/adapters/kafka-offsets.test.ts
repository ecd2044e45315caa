/** What of a partition is settled, and what a commit says of it. */
import assert from "node:assert/strict";
import * as fc from "fast-check";
import type { KafkaMessage } from "kafkajs";
import { describe, it } from "vitest";
import { decodeNotes, encodeNotes, metadataLimit } from "../../adapters/kafka/commit-metadata.ts";
import { OffsetTracker, type Tracked } from "../../adapters/kafka/offsets.ts";
import { Partition } from "../../adapters/kafka/partition.ts";

const tracked = (offset: number): Tracked => ({ offset, settled: false });

/** A record as the client gives it. */
function record(given: Partial<Record<keyof KafkaMessage, unknown>>): KafkaMessage {
  return {
    key: null,
    value: null,
    timestamp: "0",
    attributes: 0,
    offset: "0",
    headers: {},
    ...given,
  } as never;
}

describe("offsets", () => {
  it("says never more than what is settled without a gap, and forgets nothing that is settled above", () => {
    const step = fc.record({ read: fc.nat(3), gap: fc.nat(2), settle: fc.nat(20) });
    fc.assert(
      fc.property(fc.nat(1_000), fc.array(step, { maxLength: 200 }), (start, steps) => {
        const tracker = new OffsetTracker(start);
        const open: Tracked[] = [];
        const settled = new Set<number>();
        let next = start;
        for (const { read, gap, settle } of steps) {
          next += gap;
          for (let i = 0; i < read; i += 1) {
            const one = tracked(next);
            assert.equal(tracker.add(one), true);
            open.push(one);
            next += 1;
          }
          const [chosen] = open.length === 0 ? [] : open.splice(settle % open.length, 1);
          if (chosen !== undefined) {
            tracker.settle(chosen);
            settled.add(chosen.offset);
          }
          const lowest = Math.min(...open.map(({ offset }) => offset));
          const position = tracker.position as number;
          assert.ok(position <= lowest, "a commit would pass a record under way");
          assert.ok(open.length > 0 ? position === lowest : position === tracker.next);
          assert.deepEqual(
            [...tracker.settledAbove()],
            [...settled].filter((offset) => offset > position).toSorted((a, b) => a - b),
          );
        }
      }),
    );
  });

  it("takes a record once, however often it is fetched", () => {
    const tracker = new OffsetTracker(5);
    assert.equal(tracker.add(tracked(5)), true);
    assert.equal(tracker.add(tracked(5)), false);
    assert.equal(tracker.add(tracked(3)), false);
    assert.deepEqual([tracker.position, tracker.next, tracker.span], [5, 6, 1]);
  });

  it("knows nothing before anything is known, and passes over what is never handed out", () => {
    const tracker = new OffsetTracker();
    assert.equal(tracker.position, undefined);
    const record = tracked(7);
    tracker.add(record);
    assert.equal(tracker.position, 7);
    tracker.passTo(12);
    assert.deepEqual([tracker.position, tracker.next], [7, 12]);
    tracker.settle(record);
    assert.equal(tracker.position, 12);
  });
});

describe("commit metadata", () => {
  const suspect = fc.option(fc.record({ offset: fc.nat(5_000), starts: fc.integer({ min: 1, max: 100 }) }), {
    nil: undefined,
  });

  it("comes back as it was written", () => {
    fc.assert(
      fc.property(
        fc.nat(2 ** 40),
        fc.uniqueArray(fc.integer({ min: 1, max: 24_000 }), { maxLength: 500 }),
        suspect,
        fc.option(fc.nat(2_000), { nil: undefined }),
        (position, above, found, narrow) => {
          const settled = above.toSorted((a, b) => a - b).map((delta) => position + delta);
          const shifted = found === undefined ? undefined : { ...found, offset: position + found.offset };
          const narrowUntil = narrow === undefined ? undefined : position + narrow;
          const text = encodeNotes(position, { settled, suspect: shifted, narrowUntil });
          assert.ok(text.length <= metadataLimit);
          const read = decodeNotes(position, text);
          assert.deepEqual([...read.settled], settled);
          assert.deepEqual(read.suspect, shifted);
          assert.equal(read.narrowUntil, narrowUntil);
        },
      ),
    );
  });

  it("is never longer than the broker takes, and what it leaves out is never said to be settled", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 1, max: 200_000 }), { maxLength: 2_000 }),
        fc.nat(metadataLimit),
        (above, limit) => {
          const settled = above.toSorted((a, b) => a - b);
          const text = encodeNotes(0, { settled, suspect: { offset: 3, starts: 2 }, narrowUntil: 9 }, limit);
          assert.ok(text.length <= limit);
          for (const offset of decodeNotes(0, text).settled) assert.ok(settled.includes(offset));
        },
      ),
    );
  });

  it("makes nothing of what somebody else wrote", () => {
    for (const text of [null, undefined, "", "pr2:AA::", "hello", "{}", "pr1", "pr1:!!:-.-:-", ":::"]) {
      const notes = decodeNotes(10, text);
      assert.deepEqual([notes.suspect, notes.narrowUntil], [undefined, undefined], String(text));
      assert.equal(notes.settled.size, 0, String(text));
    }
  });
});

describe("a partition", () => {
  const messageAt = (offset: number): KafkaMessage => record({ offset: String(offset) });
  const reading = (from: number, count: number, metadata = ""): Partition => {
    const partition = new Partition("t", 0, undefined);
    partition.load(from, metadata);
    for (let i = 0; i < count; i += 1) {
      const read = partition.read(messageAt(from + i), 1);
      if (read !== undefined) partition.ready.push(read);
    }
    return partition;
  };
  /** Hands the next record over, noting it first where that is asked for. */
  const handOver = (partition: Partition): ReturnType<typeof partition.ready.shift> => {
    if (partition.gate() === "note") {
      partition.suspectFirst();
      partition.committed = partition.pending(metadataLimit, false) ?? partition.committed;
      partition.noted();
    }
    if (partition.gate() !== "open") return undefined;
    const next = partition.ready.shift();
    if (next !== undefined) partition.out.add(next);
    return next;
  };

  it("hands over nothing before it is committed that it does, and counts a session that ends without a word", () => {
    let metadata = "";
    for (let session = 0; session < 5; session += 1) {
      const partition = reading(10, 3, metadata);
      assert.equal(partition.gate(), "note");
      const first = handOver(partition);
      assert.equal(first?.offset, 10);
      assert.equal(partition.redeliveriesOf(first as never), session);
      metadata = partition.committed?.metadata ?? "";
    }
  });

  it("does not count a session that took its leave", () => {
    const before = reading(10, 3);
    handOver(before);
    const farewell = before.pending(metadataLimit, true);
    const after = reading(10, 3, farewell?.metadata);
    const first = handOver(after);
    assert.equal(after.redeliveriesOf(first as never), 0);
  });

  it("does not hand over again what was settled above the committed offset", () => {
    const before = reading(0, 5);
    const records = [0, 1, 2, 3, 4].map(() => handOver(before));
    for (const at of [1, 3]) before.settle(records[at] as never);
    const committed = before.pending(metadataLimit, false);
    assert.equal(committed?.position, 0);
    const after = reading(0, 5, committed?.metadata);
    assert.deepEqual(
      after.ready.map(({ offset }) => offset),
      [0, 2, 4],
    );
  });

  it("goes one record at a time after several sessions ended with the same one, until they are through", () => {
    const partition = reading(
      10,
      4,
      encodeNotes(10, { settled: [], suspect: { offset: 10, starts: 3 }, narrowUntil: undefined }),
    );
    const first = handOver(partition);
    assert.equal(partition.redeliveriesOf(first as never), 3);
    assert.equal(partition.gate(), "shut");
    partition.settle(first as never);
    const second = handOver(partition);
    assert.deepEqual([second?.offset, partition.redeliveriesOf(second as never)], [11, 0]);
    assert.equal(partition.gate(), "shut");
    // The next session knows that this one was at the second.
    const again = reading(11, 3, partition.committed?.metadata);
    const suspected = handOver(again);
    assert.deepEqual([suspected?.offset, again.redeliveriesOf(suspected as never)], [11, 1]);
    assert.equal(again.gate(), "shut");
  });

  it("puts a released record back where it was", () => {
    const partition = reading(0, 4);
    const [first, second] = [handOver(partition), handOver(partition)];
    partition.putBack(second as never);
    partition.putBack(first as never);
    assert.deepEqual(
      partition.ready.map(({ offset }) => offset),
      [0, 1, 2, 3],
    );
  });
});
