/** W: what is fetched, and that nothing is ever hidden by remembering how far one was. */
import assert from "node:assert/strict";
import { type LowWater, createLowWater } from "../../outbox/low-water.ts";
import type { OutboxStore } from "../../store.ts";
import { eventually } from "../eventually.ts";
import {
  type StoreScenario,
  type StoreWorld,
  needsConcurrency,
  needsSessions,
  storeScenario,
} from "./scenario.ts";
import { entry, idOf } from "./world.ts";

type Mark = Pick<LowWater, "low" | "highest" | "saw" | "removed">;

/** A relay reduced to what it does with the outbox: fetch above the mark, "publish", remove. */
function reader(
  outbox: OutboxStore,
  epoch: bigint,
  lowWater: Mark,
): { readonly seen: string[]; step(): Promise<void> } {
  const seen: string[] = [];
  const limit = 3;
  return {
    seen,
    async step() {
      const page = await outbox.fetch({ above: lowWater.low, parkedTopics: [], limit });
      lowWater.saw(page, false);
      if (page.rows.length === 0) return;
      seen.push(...page.rows.map(idOf));
      const seqs = page.rows.map(({ seq }) => seq);
      const { highest } = lowWater;
      const { fenced, mark } = await outbox.remove(seqs, epoch);
      assert.equal(fenced, false);
      lowWater.removed(seqs, mark, highest);
    },
  };
}

/** The cursor everybody writes first: everything up to the last row seen is done with. */
function naiveLowWater(): Mark {
  let low = 0n;
  return {
    get low() {
      return low;
    },
    highest: 0n,
    saw: (page) => void (low = page.rows.at(-1)?.seq ?? low),
    removed: () => undefined,
  };
}

/** As it was first thought of: right after a remove, all below is done with. No later fetch proves it. */
function unprovenLowWater(): Mark {
  const known = new Set<bigint>();
  let low = 0n;
  let highest = 0n;
  return {
    get low() {
      return low;
    },
    get highest() {
      return highest;
    },
    saw(page) {
      for (const { seq } of page.rows) known.add(seq);
      highest = page.rows.at(-1)?.seq ?? highest;
    },
    removed(seqs) {
      for (const seq of seqs) known.delete(seq);
      if (known.size === 0) low = highest;
    },
  };
}

/** A transaction draws its place early and commits late, while others pass it. */
async function lateCommitter(world: StoreWorld, prefix: string, lowWater: Mark): Promise<readonly string[]> {
  const store = await world.store();
  const { epoch } = await world.lease(store, prefix);
  const relay = reader(store.outbox, epoch, lowWater);
  const late = await world.database.begin();
  await store.outbox.append(late.handle, [entry(`${prefix} late`)]);
  for (let n = 0; n < 6; n += 1) {
    await world.commit(store, entry(`${prefix} ${n}`));
    await relay.step();
  }
  for (let n = 0; n < 3; n += 1) await relay.step();
  await late.commit();
  for (let n = 0; n < 3; n += 1) await relay.step();
  await store.outbox.surrender(prefix, epoch);
  return relay.seen;
}

export const fetching: readonly StoreScenario[] = [
  storeScenario(
    "W1",
    "rows come in order, above the mark, up to the limit, without parked topics and excepted rows",
    async (world) => {
      const store = await world.store();
      for (const n of [0, 1, 2, 3, 4, 5])
        await world.commit(store, entry(`${n}`, { topic: `topic-${n % 3}` }));
      const fetch = async (
        above: bigint,
        limit: number,
        ...parkedTopics: string[]
      ): Promise<[string, bigint][]> => {
        const { rows } = await store.outbox.fetch({ above, limit, parkedTopics });
        return rows.map((row) => [idOf(row), row.seq]);
      };

      const all = await fetch(0n, 100);
      const [, second] = all;

      assert.deepEqual(
        all.map(([id]) => id),
        ["0", "1", "2", "3", "4", "5"],
      );
      assert.deepEqual(
        all.map(([, seq]) => seq),
        all.map(([, seq]) => seq).sort((a, b) => (a < b ? -1 : 1)),
      );
      assert.deepEqual(await fetch(0n, 2), all.slice(0, 2));
      assert.deepEqual(await fetch(second?.[1] ?? 0n, 100), all.slice(2));
      assert.deepEqual(
        (await fetch(0n, 3, "topic-0", "topic-2", "nowhere")).map(([id]) => id),
        ["1", "4"],
      );
      assert.deepEqual(await fetch(0n, 100, "topic-0", "topic-1", "topic-2"), []);
      const except = all.slice(1, 3).map(([, seq]) => seq);
      const others = await store.outbox.fetch({ above: 0n, except, parkedTopics: ["topic-0"], limit: 1 });
      assert.deepEqual(others.rows.map(idOf), ["4"]);
    },
  ),

  storeScenario(
    "W2",
    "the low-water mark never hides a row of a transaction that commits late, as simpler ones do",
    async (world) => {
      const everything = (prefix: string): string[] =>
        ["0", "1", "2", "3", "4", "5", "late"].map((n) => `${prefix} ${n}`).toSorted();

      const seen = await lateCommitter(world, "proven", createLowWater());
      const naive = await lateCommitter(world, "naive", naiveLowWater());
      const unproven = await lateCommitter(world, "unproven", unprovenLowWater());

      assert.deepEqual(seen.toSorted(), everything("proven"));
      // The trap is a real one: else this scenario could not fail.
      assert.deepEqual(
        naive.filter((id) => id === "naive late"),
        [],
      );
      assert.deepEqual(
        unproven.filter((id) => id === "unproven late"),
        [],
      );
    },
    needsConcurrency,
  ),

  storeScenario("W3", "the low-water mark follows once no older transaction is left", async (world) => {
    const store = await world.store();
    const { epoch } = await world.lease(store);
    const lowWater = createLowWater();
    const relay = reader(store.outbox, epoch, lowWater);
    for (const n of [0, 1, 2, 3]) await world.commit(store, entry(`${n}`));
    const page = await store.outbox.fetch({ above: 0n, parkedTopics: [], limit: 100 });

    await relay.step();
    await relay.step();
    await world.commit(store, entry("4"));

    await eventually(async () => {
      await relay.step();
      assert.ok(lowWater.low >= (page.rows.at(-1)?.seq ?? 0n), `the mark is still at ${lowWater.low}`);
    });
    assert.deepEqual(relay.seen, ["0", "1", "2", "3", "4"]);
  }),

  storeScenario(
    "W4",
    "a fetch neither waits for a transaction nor makes one wait",
    async (world) => {
      const store = await world.store();
      await world.commit(store, entry("before"));

      const open = await world.database.begin();
      await store.outbox.append(open.handle, [entry("open")]);
      const [first, second] = await Promise.all([world.rows(store.outbox), world.rows(store.outbox)]);
      await open.commit();

      assert.deepEqual([first, second], [["before"], ["before"]]);
      assert.deepEqual(await world.rows(store.outbox), ["before", "open"]);
    },
    needsSessions,
  ),
];
