/** M: the tables are made once, whoever asks and however often; without them nothing starts. */
import assert from "node:assert/strict";
import { nodeRuntime } from "../../clock.ts";
import { type StoreScenario, type StoreWorld, storeScenario } from "./scenario.ts";
import { entry } from "./world.ts";

const context = { runtime: nodeRuntime, emit: () => undefined };

export const migrations: readonly StoreScenario[] = [
  storeScenario(
    "M1",
    "without its tables a store does not connect, and says what to run; with them it does",
    async (world) => {
      const database = await world.bare();
      const store = await database.store();

      await assert.rejects(store.connect(context), {
        name: "StoreError",
        code: "ERR_SCHEMA",
        message: /bus\.migrate\(\)/u,
      });
      const made = await store.migrate();
      await store.connect(context);
      const again = await store.migrate();
      await store.close();

      assert.equal(made.from, 0);
      assert.ok(made.to > 0);
      assert.deepEqual(again, { from: made.to, to: made.to });
    },
    (store) => (store.migratesItself ? "the store makes its tables by itself" : undefined),
  ),

  storeScenario("M2", "several may migrate at once, and what is there is kept", async (world) => {
    const database = await world.bare();
    const stores = await Promise.all(Array.from({ length: 5 }, () => database.store()));

    const reports = await Promise.all(
      stores.map(async (store) => {
        if (store.migratesItself) await store.connect(context);
        return store.migrate();
      }),
    );
    const [store] = stores;
    assert.ok(store !== undefined);
    await store.connect(context);
    const transaction = await database.begin();
    await store.outbox.append(transaction.handle, [entry("kept")]);
    await transaction.commit();
    await store.migrate();

    assert.deepEqual(await world.rows(store.outbox), ["kept"]);
    await Promise.all(stores.map((each) => each.close()));
    assert.equal(new Set(reports.map(({ to }) => to)).size, 1);
    if (!store.migratesItself) assert.equal(reports.filter(({ from }) => from === 0).length, 1);
  }),

  storeScenario(
    "M3",
    "old tables are refused with what there is, what is needed, and what to run",
    async (world) => {
      const store = await world.database.store();
      await world.database.makeOld?.();

      await assert.rejects(store.connect(context), {
        name: "StoreError",
        code: "ERR_SCHEMA",
        message: /have \d+, need \d+.*bus\.migrate\(\)/u,
      });
      await store.close();
    },
    (store) => (store.migratesItself ? "the store upgrades its tables by itself" : undefined),
  ),

  storeScenario(
    "M4",
    "the version is told before the store connects, and nothing is changed",
    async (world) => {
      const database = await world.bare();
      const store = await database.store();

      const before = [await store.version(), await store.version()];
      if (store.migratesItself) await store.connect(context);
      await store.migrate();
      const after = await store.version();
      await store.close();

      assert.deepEqual(
        before.map(({ have }) => have),
        [0, 0],
      );
      assert.equal(after.have, after.known);
      assert.equal(store.migrations().length, after.known);
    },
  ),

  storeScenario("M5", "its SQL, run by a person, makes the tables it works with", async (world) => {
    const database = await world.bare();
    const store = await database.store();
    for (const sql of store.migrations()) await database.execute(sql);

    const { have, known } = await store.version();
    await store.connect(context);
    const transaction = await database.begin();
    await store.outbox.append(transaction.handle, [entry("sent")]);
    await transaction.commit();

    assert.equal(have, known);
    assert.deepEqual(await world.rows(store.outbox), ["sent"]);
    await store.close();
  }),

  storeScenario(
    "M6",
    "the tables of every earlier version are upgraded, with what is in them",
    async (world) => {
      for (let version = 1; version <= (await versions(world)); version += 1) {
        const database = await world.bare();
        const store = await database.store();
        for (const sql of store.migrations().slice(0, version)) await database.execute(sql);
        const found = await store.version();
        const key = { scope: "topic--group", key: "m", redrives: 0 };

        if (store.migratesItself) await store.connect(context);
        const { to } = await store.migrate();
        await store.connect(context);
        const answer = await store.transaction((tx) => store.inbox.record(tx, key, "handled"));

        assert.deepEqual(found, { have: version, known: to });
        assert.equal(answer, "fresh");
        await store.close();
      }
    },
  ),
];

async function versions({ database }: StoreWorld): Promise<number> {
  return (await database.store()).migrations().length;
}
