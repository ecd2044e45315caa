/** Who reads which partition, where a message goes, and how long it waits. */
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import * as fc from "fast-check";
import { describe, it } from "vitest";
import { assignPartitions, type MemberClaim } from "../../adapters/kafka/assignment.ts";
import { DelayQueue } from "../../adapters/kafka/delays.ts";
import { partitionOfKey } from "../../src/partitioner.ts";
import { holdFor, tierBoundsMs, tierOf, tiersFor } from "../../adapters/kafka/tiers.ts";

describe("assignment", () => {
  const claim = fc.record({
    topics: fc.subarray(["a", "b", "c"], { minLength: 1 }),
    retries: fc.boolean(),
  });
  const partitions: Record<string, number> = {
    a: 8,
    b: 3,
    c: 1,
    "a--g--retry-10s": 8,
    "b--g--retry-10s": 3,
    "c--g--retry-10s": 1,
  };
  const claimsOf = (members: readonly { topics: readonly string[]; retries: boolean }[]): MemberClaim[] =>
    members.map(({ topics, retries }, i) => ({
      memberId: `m${i}`,
      topics: [...topics, ...(retries ? topics.map((topic) => `${topic}--g--retry-10s`) : [])],
      partitions,
      owned: {},
    }));

  it("gives each partition to exactly one of its subscribers, evenly, whatever else they read", () => {
    fc.assert(
      fc.property(fc.array(claim, { minLength: 1, maxLength: 8 }), (members) => {
        const claims = claimsOf(members);
        const dealt = assignPartitions(claims);
        for (const [topic, count] of Object.entries(partitions)) {
          const subscribers = claims.filter(({ topics }) => topics.includes(topic));
          const shares = subscribers.map(({ memberId }) => dealt.get(memberId)?.[topic] ?? []);
          const given = claims.flatMap(({ memberId }) => dealt.get(memberId)?.[topic] ?? []);
          const expected = subscribers.length === 0 ? [] : [...Array(count).keys()];
          assert.deepEqual(
            given.toSorted((a, b) => a - b),
            expected,
            topic,
          );
          assert.equal(shares.flat().length, given.length, "a partition went to who does not read its topic");
          if (topic.includes("--")) continue;
          const sizes = shares.map(({ length }) => length);
          assert.ok(
            sizes.length === 0 || Math.max(...sizes) - Math.min(...sizes) <= 1,
            `${topic}: ${sizes.join()}`,
          );
        }
      }),
    );
  });

  it("is the same in whatever order the members are listed", () => {
    fc.assert(
      fc.property(fc.array(claim, { minLength: 1, maxLength: 6 }), (members) => {
        const claims = claimsOf(members);
        assert.deepEqual(
          Object.fromEntries(assignPartitions(claims)),
          Object.fromEntries(assignPartitions(claims.toReversed())),
        );
      }),
    );
  });

  it("keeps partition p of a topic and of its retry topics in one process", () => {
    const claims = claimsOf(Array.from({ length: 3 }, () => ({ topics: ["a", "b"], retries: true })));
    for (const assigned of assignPartitions(claims).values()) {
      assert.deepEqual(assigned["a--g--retry-10s"]?.toSorted(), assigned["a"]?.toSorted());
      assert.deepEqual(assigned["b--g--retry-10s"]?.toSorted(), assigned["b"]?.toSorted());
    }
  });

  it("moves no more than it must when a member comes or goes", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 6 }), fc.boolean(), (count, leaves) => {
        const members = claimsOf(
          Array.from({ length: count + 1 }, () => ({ topics: ["a"], retries: false })),
        );
        const before = assignPartitions(leaves ? members : members.slice(0, count));
        const claims = (leaves ? members.slice(1) : members).map((member) =>
          Object.assign({}, member, { owned: before.get(member.memberId) ?? {} }),
        );
        const after = assignPartitions(claims);
        const moved = claims
          .filter(({ memberId }) => before.has(memberId))
          .flatMap(({ memberId }) =>
            (before.get(memberId)?.["a"] ?? []).filter(
              (p) => !(after.get(memberId)?.["a"] ?? []).includes(p),
            ),
          );
        // Who goes leaves its own; who comes takes a fair share and no more.
        assert.ok(moved.length <= (leaves ? 0 : Math.ceil(8 / (count + 1))), `${moved.length} moved`);
      }),
    );
  });
});

describe("delays", () => {
  it("come in order of time", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(1_000)), fc.nat(1_000), (times, now) => {
        const queue = new DelayQueue<number>();
        for (const time of times) queue.push(time, time);
        const due = times.filter((time) => time <= now).toSorted((a, b) => a - b);
        assert.deepEqual([...queue.takeDue(now)], due);
        assert.equal(queue.nextDueAt, Math.min(...times.filter((time) => time > now)));
      }),
    );
  });

  it("wait in the smallest retry topic that is long enough, or hop through the largest", () => {
    assert.deepEqual(tiersFor(0), [10_000, 600_000]);
    assert.deepEqual(tiersFor(600_001), tierBoundsMs);
    assert.deepEqual(
      [0, 10_000, 10_001, 86_400_000, 9e9].map((ms) => tierOf(ms, tierBoundsMs)),
      [10_000, 10_000, 600_000, 86_400_000, 86_400_000],
    );
  });

  it("are never waited out for longer than they are, nor longer than a retry topic is for, whatever the clocks say", () => {
    const time = fc.integer({ min: -1e12, max: 1e12 });
    fc.assert(
      fc.property(
        time,
        fc.nat(1e9),
        time,
        fc.constantFrom(...tierBoundsMs),
        (writtenAt, delayMs, now, bound) => {
          const { waitMs, hop } = holdFor(writtenAt + delayMs, writtenAt, now, bound);
          assert.ok(waitMs >= 0 && waitMs <= delayMs && waitMs <= bound * 1.01);
          if (now <= writtenAt && !hop) assert.equal(waitMs, delayMs);
          if (hop) assert.equal(waitMs, bound);
        },
      ),
    );
  });
});

describe("partitioner", () => {
  it("agrees with the Java client", () => {
    // From Kafka's own tests of org.apache.kafka.common.utils.Utils.murmur2.
    const known = {
      "21": -973932308,
      foobar: -790332482,
      "a-little-bit-long-string": -985981536,
      "a-little-bit-longer-string": -1486304829,
      lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8: -58897971,
      abc: 479470107,
    };
    // Among so many partitions, the hash itself is seen.
    for (const [text, hash] of Object.entries(known))
      assert.equal(partitionOfKey(text, 0x80000000), hash & 0x7fffffff, text);
  });

  it("agrees with kafkajs for every key", () => {
    const theirs = createRequire(import.meta.url)("kafkajs/src/producer/partitioners/default/murmur2") as (
      key: Buffer,
    ) => number;
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.integer({ min: 1, max: 100 }), (key, partitions) => {
        assert.equal(partitionOfKey(key, partitions), (theirs(Buffer.from(key)) & 0x7fffffff) % partitions);
      }),
    );
  });
});
