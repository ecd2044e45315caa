/** K: what a key came to is kept with it, so that whoever asks again gets the same. */
import assert from "node:assert/strict";
import { adapterFromUrl } from "../../backends.ts";
import type { Bus } from "../../bus.ts";
import { createBus } from "../../create-bus.ts";
import type { InboxClaim, InboxKey } from "../../store.ts";
import { eventually } from "../eventually.ts";
import { type StoreScenario, type StoreWorld, needsServer, storeScenario } from "./scenario.ts";
import { watch } from "./world.ts";

const long = 600_000;
const keyOf = (key: string): InboxKey => ({ scope: "once:test", key, redrives: 0 });
const claimOf = (key: string, token: string): InboxClaim => ({ ...keyOf(key), token });
const rollback = new Error("rolled back");

/** Runs `act` with buses that share the database, as two processes do. */
async function withBuses(world: StoreWorld, act: (buses: readonly Bus[]) => Promise<void>): Promise<void> {
  const buses: Bus[] = [];
  for (const name of ["a", "b"]) {
    const store = await world.database.store();
    buses.push(
      createBus({ adapter: adapterFromUrl(`memory:results-${name}`), store, onEvent: () => undefined }),
    );
  }
  try {
    await act(buses);
  } finally {
    await Promise.all(buses.map((bus) => bus.close()));
  }
}

export const results: readonly StoreScenario[] = [
  storeScenario(
    "K1",
    "a result is there when its transaction has committed, and goes with it when not",
    async (world) => {
      const [store, other] = [await world.store(), await world.store()];
      const run = (key: string, end: () => void): Promise<void> =>
        store.transaction(async (tx) => {
          await store.inbox.record(tx, keyOf(key), "handled");
          await store.inbox.keepResult(tx, keyOf(key), '{"n":1}');
          end();
        });

      await run("committed", () => undefined);
      const failing = run("rolled back", () => {
        throw rollback;
      });
      await assert.rejects(failing, rollback);
      await store.transaction((tx) => store.inbox.record(tx, keyOf("without"), "handled"));

      assert.deepEqual(await other.inbox.findResult(keyOf("committed")), { result: '{"n":1}' });
      assert.deepEqual(await other.inbox.findResult(keyOf("without")), { result: undefined });
      assert.equal(await other.inbox.findResult(keyOf("rolled back")), undefined);
      assert.equal(await other.inbox.findResult({ ...keyOf("committed"), scope: "once:other" }), undefined);
    },
  ),

  storeScenario(
    "K2",
    "a result is stored with the end of the claim that holds, and with no other",
    async (world) => {
      const [store, other] = [await world.store(), await world.store()];
      const complete = (token: string, result?: string): Promise<void> =>
        store.inbox.complete([{ ...claimOf("m", token), outcome: "handled", result }]);

      assert.deepEqual(await store.inbox.claim([claimOf("m", "a")], long), ["fresh"]);
      assert.equal(await other.inbox.findResult(keyOf("m")), undefined);
      await complete("b", '"theirs"');
      assert.equal(await other.inbox.findResult(keyOf("m")), undefined);
      await complete("a", '"mine"');
      await complete("a");
      await complete("b", '"theirs"');
      await other.inbox.release([claimOf("m", "a")]);

      assert.deepEqual(await other.inbox.findResult(keyOf("m")), { result: '"mine"' });
      assert.deepEqual(await other.inbox.claim([claimOf("m", "c")], long), ["duplicate"]);
    },
  ),

  storeScenario("K3", "results come back as they were, each to its own claim", async (world) => {
    const store = await world.store();
    const values = [
      "",
      "null",
      '"\\u0000\\ud800"',
      "'$1\\ \" ? %s",
      "漢字 é e\u0301 😀",
      '"handled"',
      "handled",
    ].concat(JSON.stringify("ü".repeat(500_000)));
    const claims = values.map((_, i) => claimOf(`${i}`, `t${i}`));

    await store.inbox.claim(claims, long);
    await store.inbox.complete(
      values.map((result, i) => ({
        ...claimOf(`${i}`, `t${i}`),
        outcome: i % 2 === 0 ? "handled" : "discarded",
        result,
      })),
    );
    await store.transaction(async (tx) => {
      for (const [i, value] of values.entries()) {
        await store.inbox.record(tx, keyOf(`recorded ${i}`), "handled");
        await store.inbox.keepResult(tx, keyOf(`recorded ${i}`), value);
      }
    });

    for (const [i, result] of values.entries()) {
      assert.deepEqual(await store.inbox.findResult(keyOf(`${i}`)), { result });
      assert.deepEqual(await store.inbox.findResult(keyOf(`recorded ${i}`)), { result });
    }
  }),

  storeScenario("K4", "a result is purged with what it is the result of", async (world) => {
    const store = await world.store();
    await store.transaction(async (tx) => {
      await store.inbox.record(tx, keyOf("m"), "handled");
      await store.inbox.keepResult(tx, keyOf("m"), "1");
    });

    assert.equal(await store.inbox.purge(long, 100), 0);
    assert.equal(await store.inbox.purge(-long, 100), 1);
    assert.equal(await store.inbox.findResult(keyOf("m")), undefined);
    assert.deepEqual(await store.inbox.claim([claimOf("m", "a")], long), ["fresh"]);
  }),

  storeScenario(
    "K5",
    "of many calls at once, in two processes, one runs and all get its result",
    async (world) => {
      const { database } = world;
      await withBuses(world, async (buses) => {
        let runs = 0;
        const calls = Array.from({ length: 20 }, (_, i) => buses[i % 2] as Bus);

        const inTransaction = await Promise.all(
          calls.map((bus) =>
            bus.once("k", async (tx: unknown) => {
              await database.addEffect(tx, "paid");
              return { run: (runs += 1) };
            }),
          ),
        );
        const byLease = await Promise.all(
          calls.map((bus) => bus.once("l", async () => ({ run: (runs += 1) }), { by: "lease" })),
        );

        // One that was rolled back may have counted.
        assert.equal(new Set(inTransaction.map(({ run }) => run)).size, 1);
        assert.equal(new Set(byLease.map(({ run }) => run)).size, 1);
      });
      assert.deepEqual(await database.effects(), ["paid"]);
    },
  ),

  storeScenario(
    "K6",
    "when the answer to a commit is lost the call rejects, and when it is made again has its effect once",
    async (world) => {
      const { database } = world;
      await withBuses(world, async ([bus]) => {
        assert.ok(bus !== undefined);
        await bus.connect();
        for (const n of Array(6).keys()) {
          let release: (() => Promise<void>) | undefined;
          // Without a result nothing is left to be written but the COMMIT, which arrives before it is cut off.
          const result = n % 2 === 0 ? undefined : `result ${n}`;
          const call = (): Promise<string | undefined> =>
            bus.once(`${n}`, async (tx: unknown) => {
              await database.addEffect(tx, `${n}`);
              release ??= await database.faults?.holdReplies();
              return result;
            });
          const first = call();
          const watched = watch(first);
          await eventually(() => assert.ok(release !== undefined || watched.settled));
          if (result === undefined)
            await eventually(async () => assert.ok((await database.effects()).includes(`${n}`)));
          await database.faults?.cutConnections();
          await assert.rejects(first, { name: "StoreError", code: "ERR_STORE", retryable: true });
          await release?.();

          await eventually(async () => assert.equal(await call(), result));
        }
      });
      assert.deepEqual(
        (await database.effects()).toSorted(),
        Array.from({ length: 6 }, (_, n) => `${n}`),
      );
    },
    needsServer,
  ),
];
