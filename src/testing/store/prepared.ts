/** P: a prepared message is taken out once, in a transaction, and asked about by one at a time, so often and not oftener. */
import assert from "node:assert/strict";
import type { PreparedRow, PreparedStore, Store } from "../../store.ts";
import { eventually } from "../eventually.ts";
import { type StoreScenario, needsConcurrency, storeScenario } from "./scenario.ts";

const long = 600_000;
const rollback = new Error("rolled back");
const row = (id: string, topic = "t", entry = `entry of ${id}`): PreparedRow => ({ id, topic, entry });

const take = (store: Store, id: string): Promise<string | undefined> =>
  store.transaction((tx) => store.prepared.take(tx, id));

const byId = (a: readonly [string, number], b: readonly [string, number]): number => (a[0] < b[0] ? -1 : 1);

const claim = async (
  store: Store,
  againMs = long,
  topics = ["t"],
): Promise<readonly (readonly [string, number])[]> => {
  const rows = await store.prepared.claim(topics, againMs, 100);
  return rows.map(({ id, checks }) => [id, checks] as const).toSorted(byId);
};

const list = async (
  store: PreparedStore<unknown>,
  topic = "t",
): Promise<readonly (readonly [string, boolean])[]> =>
  (await store.list(topic, 100)).map(({ id, parked }) => [id, parked] as const);

export const prepared: readonly StoreScenario[] = [
  storeScenario(
    "P1",
    "a message is taken out by the transaction that commits, as it was put in",
    async (world) => {
      const [store, other] = [await world.store(), await world.store()];
      const texts = [
        "",
        "'$1\\ \" ? %s",
        "漢字 é e\u0301 😀",
        JSON.stringify("\u0000\ud800"),
        "ü".repeat(500_000),
      ];
      const ids = ["a", "A", "é", "e\u0301", "'\\", "x".repeat(255), "漢".repeat(255)];
      for (const text of texts) await store.prepared.add(row(`text ${text.length}`, "t", text), long);
      for (const id of ids) await store.prepared.add(row(id, "ids"), long);

      const failing = store.transaction(async (tx) => {
        assert.equal(await store.prepared.take(tx, "a"), "entry of a");
        throw rollback;
      });
      await assert.rejects(failing, rollback);

      assert.deepEqual(
        (await other.prepared.list("ids", 100)).map(({ id }) => id),
        ids,
      );
      for (const id of ids) assert.equal(await take(other, id), `entry of ${id}`);
      for (const text of texts) assert.equal(await take(store, `text ${text.length}`), text);
      assert.equal(await take(store, "a"), undefined);
      assert.deepEqual(await list(store.prepared), []);
    },
  ),

  storeScenario("P2", "one that is put in twice is there once, as it was the first time", async (world) => {
    const [store, other] = [await world.store(), await world.store()];

    await store.prepared.add(row("m"), long);
    await other.prepared.add(row("m", "t", "another"), 0);
    await store.prepared.add(row("n"), long);

    assert.deepEqual(await claim(store), []);
    assert.deepEqual(await list(store.prepared), [
      ["m", false],
      ["n", false],
    ]);
    assert.equal(await take(store, "m"), "entry of m");
  }),

  storeScenario(
    "P3",
    "what is due is claimed by one, and counted, whoever asks; what is not due is not",
    async (world) => {
      const [store, other] = [await world.store(), await world.store()];
      for (const id of ["a", "b", "c", "d"]) await store.prepared.add(row(id), 0);
      await store.prepared.add(row("later"), long);
      await store.prepared.add(row("elsewhere", "other"), 0);

      const answers = await Promise.all([store, other, store, other].map((each) => claim(each)));
      const again = await claim(store, long, ["t", "other"]);
      await store.prepared.add(row("soon"), 20);
      await eventually(async () => assert.deepEqual(await claim(other, 20), [["soon", 1]]));
      await eventually(async () => assert.deepEqual(await claim(other), [["soon", 2]]));

      assert.deepEqual(answers.flat().toSorted(byId), [
        ["a", 1],
        ["b", 1],
        ["c", 1],
        ["d", 1],
      ]);
      assert.deepEqual(again, [["elsewhere", 1]]);
      assert.deepEqual(await claim(store, long, []), []);
      const limited = await world.store();
      for (const id of ["x", "y", "z"]) await limited.prepared.add(row(id, "limited"), 0);
      assert.equal((await limited.prepared.claim(["limited"], long, 2)).length, 2);
    },
  ),

  storeScenario(
    "P4",
    "while it is being decided it is asked about by nobody, and nobody waits; who decides second finds nothing",
    async (world) => {
      const [store, other] = [await world.store(), await world.store()];
      await store.prepared.add(row("m"), 0);
      await store.prepared.add(row("n"), 0);
      const taken = Promise.withResolvers<string | undefined>();
      const go = Promise.withResolvers<void>();
      const first = store.transaction(async (tx) => {
        taken.resolve(await store.prepared.take(tx, "m"));
        await go.promise;
      });
      assert.equal(await taken.promise, "entry of m");

      // The first ends only after this has its answer: one that waited would wait for ever.
      const meanwhile = await claim(other);
      const second = take(other, "m");
      go.resolve();
      await first;

      assert.deepEqual(meanwhile, [["n", 1]]);
      assert.equal(await second, undefined);
    },
    needsConcurrency,
  ),

  storeScenario(
    "P5",
    "a parked one is not due until it is resumed, and can be decided all the same",
    async (world) => {
      const [store, other] = [await world.store(), await world.store()];
      for (const id of ["a", "b", "c", "d"]) await store.prepared.add(row(id), 0);
      await store.prepared.add(row("elsewhere", "other"), 0);
      await claim(store, 0, ["t", "other"]);

      const stale = await store.prepared.park("a", 0);
      const parked = [];
      for (const id of ["a", "b", "c", "elsewhere", "gone"]) parked.push(await store.prepared.park(id, 1));
      await eventually(async () => assert.deepEqual(await claim(other, long, ["t", "other"]), [["d", 2]]));
      const before = await list(other.prepared);
      assert.equal(await take(other, "c"), "entry of c");
      const resumed = [
        await other.prepared.resume("t", ["b", "d", "gone"]),
        await other.prepared.resume("t", undefined),
      ];

      assert.equal(stale, false);
      assert.deepEqual(parked, [true, true, true, true, false]);
      assert.deepEqual(before, [
        ["a", true],
        ["b", true],
        ["c", true],
        ["d", false],
      ]);
      assert.deepEqual(resumed, [1, 1]);
      await eventually(async () =>
        assert.deepEqual(await list(store.prepared, "other"), [["elsewhere", true]]),
      );
      assert.deepEqual(await claim(store), [
        ["a", 1],
        ["b", 1],
      ]);
      assert.equal(await store.prepared.resume("t", []), 0);
    },
  ),
];
