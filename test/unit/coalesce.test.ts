import assert from "node:assert/strict";
import * as fc from "fast-check";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { type CoalesceOptions, createCoalescer } from "../../src/coalesce.ts";

const runtime = createFakeRuntime();
/** Long enough for what was deferred, and for what that deferred in turn. */
const turn = async (): Promise<void> => {
  for (let i = 0; i < 4; i++) await new Promise((resolve) => setImmediate(resolve));
};

/** A coalescer whose batches wait until they are answered. */
function held(options: Partial<CoalesceOptions<number, number>> = {}) {
  const batches: { items: readonly number[]; answer: () => void; fail: (error: unknown) => void }[] = [];
  const coalescer = createCoalescer<number, number>({
    runtime,
    maxBatch: 10,
    maxInFlight: 1,
    send: (items) =>
      new Promise((resolve, reject) => {
        batches.push({ items, answer: () => resolve(items.map((n) => n * 2)), fail: reject });
      }),
    ...options,
  });
  return { coalescer, batches };
}

describe("createCoalescer", () => {
  it("sends what is asked for in one turn as one batch, in order, and gives each its own result", async () => {
    const { coalescer, batches } = held();
    const results = [1, 2, 3].map((n) => coalescer.push(n));
    await turn();

    assert.deepEqual(
      batches.map(({ items }) => items),
      [[1, 2, 3]],
    );
    batches[0]?.answer();
    assert.deepEqual(await Promise.all(results), [2, 4, 6]);
  });

  it("does not hold back a single call beyond the end of its turn", async () => {
    const { coalescer, batches } = held();

    void coalescer.push(1);
    assert.equal(batches.length, 0);
    await turn();
    assert.equal(batches.length, 1);
  });

  it("gathers what comes while its batches are under way", async () => {
    const { coalescer, batches } = held();
    void coalescer.push(1);
    await turn();
    for (const n of [2, 3, 4]) {
      void coalescer.push(n);
      await turn();
    }
    assert.equal(batches.length, 1);
    assert.equal(coalescer.waiting, 3);

    batches[0]?.answer();
    await turn();

    assert.deepEqual(batches[1]?.items, [2, 3, 4]);
    assert.equal(coalescer.waiting, 0);
  });

  it("never has larger batches, or more of them at once, than it may", async () => {
    const { coalescer, batches } = held({ maxBatch: 2, maxInFlight: 2 });
    const results = [1, 2, 3, 4, 5].map((n) => coalescer.push(n));
    await turn();
    assert.deepEqual(
      batches.map(({ items }) => items),
      [
        [1, 2],
        [3, 4],
      ],
    );

    batches[1]?.answer();
    await turn();
    assert.deepEqual(batches[2]?.items, [5]);
    batches[0]?.answer();
    batches[2]?.answer();
    assert.deepEqual(await Promise.all(results), [2, 4, 6, 8, 10]);
  });

  it("rejects every item of a batch that fails, and only those", async () => {
    const { coalescer, batches } = held();
    const first = Promise.allSettled([coalescer.push(1), coalescer.push(2)]);
    await turn();
    const second = coalescer.push(3);
    batches[0]?.fail("broken");
    await turn();
    batches[1]?.answer();

    assert.deepEqual(await first, [
      { status: "rejected", reason: "broken" },
      { status: "rejected", reason: "broken" },
    ]);
    assert.equal(await second, 6);
  });

  it("goes on after a send that throws at once", async () => {
    let calls = 0;
    const { coalescer } = held({
      send: (items) => {
        calls += 1;
        if (calls === 1) throw new Error("at once");
        return Promise.resolve(items);
      },
    });

    const failed = await Promise.allSettled([coalescer.push(1)]);
    assert.equal(failed[0]?.status, "rejected");
    assert.equal(await coalescer.push(2), 2);
  });

  it("rejects all when a send does not give one result each, instead of guessing which is whose", async () => {
    const { coalescer } = held({ send: () => Promise.resolve([1]) });

    const settled = await Promise.allSettled([coalescer.push(1), coalescer.push(2)]);
    assert.deepEqual(
      settled.map(({ status }) => status),
      ["rejected", "rejected"],
    );
  });

  it("is idle when nothing waits and nothing is under way", async () => {
    const { coalescer, batches } = held({ maxBatch: 1 });
    await coalescer.idle();
    void coalescer.push(1);
    void coalescer.push(2);
    let idle = false;
    const done = coalescer.idle().then(() => (idle = true));
    await turn();
    batches[0]?.answer();
    await turn();
    assert.equal(idle, false);

    batches[1]?.answer();
    await done;
  });

  it("keeps its promises whatever the sizes, the times and the failures", async () => {
    const plan = fc.record({
      maxBatch: fc.integer({ min: 1, max: 5 }),
      maxInFlight: fc.integer({ min: 1, max: 3 }),
      pushes: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 20 }),
      failures: fc.array(fc.boolean(), { maxLength: 20 }),
    });
    await fc.assert(
      fc.asyncProperty(plan, async ({ maxBatch, maxInFlight, pushes, failures }) => {
        let underWay = 0;
        const sent: number[] = [];
        const failing = [...failures];
        const coalescer = createCoalescer<number, number>({
          runtime,
          maxBatch,
          maxInFlight,
          async send(items) {
            underWay += 1;
            assert.ok(underWay <= maxInFlight && items.length <= maxBatch && items.length > 0);
            sent.push(...items);
            await turn();
            underWay -= 1;
            if (failing.shift() === true) throw new Error("planned");
            return items;
          },
        });
        const results: Promise<unknown>[] = [];
        let n = 0;
        for (const count of pushes) {
          for (let i = 0; i < count; i++) {
            const item = (n += 1);
            results.push(
              coalescer.push(item).then(
                (result) => assert.equal(result, item),
                () => undefined,
              ),
            );
          }
          await turn();
        }
        await Promise.all(results);
        await coalescer.idle();
        assert.deepEqual(
          sent,
          Array.from({ length: n }, (_, i) => i + 1),
        );
      }),
      { numRuns: 30 },
    );
  });
});
