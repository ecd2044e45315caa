import assert from "node:assert/strict";
import { describe, it } from "vitest";
import { createLowWater } from "../../../src/outbox/low-water.ts";
import { type Removal, createRemoval } from "../../../src/outbox/removal.ts";
import type { OutboxPage, OutboxRow, OutboxStore } from "../../../src/store.ts";

const page = (seqs: readonly bigint[], horizon: bigint): OutboxPage => ({
  rows: seqs.map((seq) => ({ seq }) as OutboxRow),
  horizon,
});

type Answer = Awaited<ReturnType<OutboxStore["remove"]>>;

function open() {
  const asked: { readonly seqs: readonly bigint[]; readonly answer: (answer: Answer | Error) => void }[] = [];
  const removed: bigint[] = [];
  const ended: unknown[] = [];
  const lowWater = createLowWater();
  const removal: Removal = createRemoval({
    outbox: {
      remove: (seqs: readonly bigint[]) =>
        new Promise((resolve, reject) => {
          const answer = (given: Answer | Error): void =>
            given instanceof Error ? reject(given) : resolve(given);
          asked.push({ seqs, answer });
        }),
    } as unknown as OutboxStore,
    epoch: 1n,
    lowWater,
    onRemoved: (seqs) => void removed.push(...seqs),
    onEnded: (error) => void ended.push(error),
  });
  const answer = async (given: Answer | Error): Promise<void> => {
    asked.at(-1)?.answer(given);
    await settle();
  };
  return { asked, removed, ended, lowWater, removal, answer };
}

async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}

describe("deleting what was confirmed", () => {
  it("takes one statement at a time, with all that was confirmed meanwhile", async () => {
    const { asked, removed, removal, answer } = open();
    for (const seq of [1n, 2n]) removal.add(seq);
    await settle();
    for (const seq of [3n, 4n]) removal.add(seq);
    await settle();
    assert.deepEqual(
      asked.map(({ seqs }) => seqs),
      [[1n, 2n]],
    );

    await answer({ fenced: false, mark: 10n });
    assert.deepEqual(asked[1]?.seqs, [3n, 4n]);
    await answer({ fenced: false, mark: 11n });
    await removal.idle();

    assert.deepEqual(removed, [1n, 2n, 3n, 4n]);
  });

  it("proves nothing about rows that were first seen while it ran: they may be newer than its mark", async () => {
    const { lowWater, removal, answer } = open();
    lowWater.saw(page([1n], 5n), false);
    removal.add(1n);
    await settle();
    // Row 8 belongs to a transaction that is still open, and that is younger than the remove.
    lowWater.saw(page([9n], 5n), false);
    await answer({ fenced: false, mark: 10n });
    lowWater.saw(page([9n], 11n), false);
    lowWater.gone([9n]);

    assert.deepEqual([lowWater.low, lowWater.proven], [1n, 1n]);
  });

  it("ends when another relay has taken over, and when the store fails", async () => {
    for (const last of [{ fenced: true, mark: 0n }, new Error("down")]) {
      const { asked, removed, ended, removal, answer } = open();
      removal.add(1n);
      await settle();
      removal.add(2n);
      await answer(last);
      await removal.idle();

      assert.equal(asked.length, 1);
      assert.deepEqual(removed, []);
      assert.deepEqual(ended, [last instanceof Error ? last : undefined]);
    }
  });
});
