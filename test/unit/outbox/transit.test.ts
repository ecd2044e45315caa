import assert from "node:assert/strict";
import { describe, it } from "vitest";
import { type RowResult, type Transit, createTransit } from "../../../src/outbox/transit.ts";
import type { OutboxRow } from "../../../src/store.ts";

const row = (seq: number, chain = "k"): OutboxRow =>
  ({ seq: BigInt(seq), message: { key: chain } }) as unknown as OutboxRow;

interface Rig {
  readonly transit: Transit;
  /** Rows that went out, in order. */
  readonly out: number[];
  /** Decides what becomes of a row that is out. */
  end(seq: number, result: RowResult): Promise<void>;
  readonly sent: number[];
  mayPublish: boolean;
}

function open(chainOf: (row: OutboxRow) => string | undefined = ({ message }) => message.key): Rig {
  const under = new Map<number, (result: RowResult) => void>();
  const rig: Rig = {
    out: [],
    sent: [],
    mayPublish: true,
    transit: createTransit({
      chainOf,
      mayPublish: () => rig.mayPublish,
      publish({ seq }) {
        rig.out.push(Number(seq));
        return new Promise((resolve) => under.set(Number(seq), resolve));
      },
      onSent: ({ seq }) => void rig.sent.push(Number(seq)),
      onChange: () => undefined,
    }),
    async end(seq: number, result: RowResult) {
      under.get(seq)?.(result);
      for (let i = 0; i < 10; i++) await Promise.resolve();
    },
  };
  return rig;
}

describe("rows on their way", () => {
  it("go out side by side, but for those of one chain, over several fetches too", async () => {
    const rig = open();
    rig.transit.take([row(1, "a"), row(2, "a"), row(3, "b")], rig.transit.beginFetch());
    rig.transit.take([row(4, "a"), row(5, "c")], rig.transit.beginFetch());
    assert.deepEqual(rig.out, [1, 3, 5]);

    await rig.end(1, "sent");
    assert.deepEqual(rig.out, [1, 3, 5, 2]);
    await rig.end(2, "parked");

    assert.deepEqual(rig.out, [1, 3, 5, 2, 4]);
    assert.equal(rig.transit.waiting, 3);
  });

  it("are left out of fetches until they are deleted or put back", async () => {
    const rig = open();
    rig.transit.take([row(1, "a"), row(2, "b")], rig.transit.beginFetch());
    await rig.end(1, "sent");
    await rig.end(2, "failed");
    assert.deepEqual([...rig.transit.taken], [1n]);

    rig.transit.forget([1n]);

    assert.equal(rig.transit.taken.size, 0);
    assert.equal(rig.transit.waiting, 0);
    assert.deepEqual(rig.transit.outcomes(), { sent: 1, refused: 0, failed: 1 });
    assert.deepEqual(rig.transit.outcomes(), { sent: 0, refused: 0, failed: 0 });
  });

  it("take those behind them back when they fail", async () => {
    const rig = open();
    rig.transit.take([row(1), row(2), row(3)], rig.transit.beginFetch());
    await rig.end(1, "refused");

    assert.deepEqual(rig.out, [1]);
    assert.equal(rig.transit.taken.size, 0);
  });

  it("are not overtaken by a fetch that began before they failed", async () => {
    const rig = open();
    rig.transit.take([row(1, "a")], rig.transit.beginFetch());
    const early = rig.transit.beginFetch();
    await rig.end(1, "failed");
    // It was told to leave row 1 out.
    rig.transit.take([row(2, "a"), row(3, "b")], early);
    assert.deepEqual(rig.out, [1, 3]);

    rig.transit.take([row(1, "a"), row(2, "a")], rig.transit.beginFetch());
    await rig.end(1, "sent");

    assert.deepEqual(rig.out, [1, 3, 1, 2]);
  });

  it("that have no chain keep none from leaving", async () => {
    const rig = open(() => undefined);
    rig.transit.take([row(1), row(2)], rig.transit.beginFetch());
    await rig.end(1, "failed");
    rig.transit.take([row(1), row(3)], rig.transit.beginFetch());

    assert.deepEqual(rig.out, [1, 2, 1, 3]);
  });

  it("stay where they are when they may not go out any more", async () => {
    const rig = open();
    rig.transit.take([row(1), row(2)], rig.transit.beginFetch());
    rig.mayPublish = false;
    await rig.end(1, "sent");

    assert.deepEqual([rig.out, rig.sent], [[1], [1]]);
    assert.equal(rig.transit.waiting, 0);
  });

  it("say what the store threw", async () => {
    const thrown = new Error("down");
    const transit = createTransit({
      chainOf: () => undefined,
      mayPublish: () => true,
      publish: () => Promise.reject(thrown),
      onSent: () => undefined,
      onChange: () => undefined,
    });
    transit.take([row(1)], transit.beginFetch());
    for (let i = 0; i < 10; i++) await Promise.resolve();

    assert.equal(transit.outcomes().error, thrown);
  });
});
