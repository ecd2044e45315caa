/** T: a handler's transaction commits as a whole or not at all, and is over when it is over. */
import assert from "node:assert/strict";
import { MessagingError } from "../../errors.ts";
import { eventually } from "../eventually.ts";
import { type StoreScenario, needsServer, storeScenario } from "./scenario.ts";
import { entry, watch } from "./world.ts";

export const transactions: readonly StoreScenario[] = [
  storeScenario(
    "T1",
    "what a transaction did is there when it resolves, and nothing of it when it rejects",
    async (world) => {
      const store = await world.store();
      const { database } = world;
      const error = new Error("the handler's own");

      const value = await store.transaction(async (tx) => {
        await database.addEffect(tx, "kept");
        await store.outbox.append(tx, [entry("kept")]);
        return 42;
      });
      const failing = store.transaction(async (tx) => {
        await database.addEffect(tx, "lost");
        await store.outbox.append(tx, [entry("lost")]);
        throw error;
      });
      await assert.rejects(failing, (thrown) => thrown === error);
      await assert.rejects(
        store.transaction(() => {
          throw error;
        }),
        (thrown) => thrown === error,
      );

      assert.equal(value, 42);
      assert.deepEqual(await database.effects(), ["kept"]);
      assert.deepEqual(await world.rows(store.outbox), ["kept"]);
    },
  ),

  storeScenario(
    "T2",
    "when it is aborted, nothing its handler did or still does takes effect",
    async (world) => {
      const store = await world.store();
      const { database } = world;
      const abort = new AbortController();
      const reason = new Error("time is up");
      const reached = Promise.withResolvers<void>();
      const go = Promise.withResolvers<void>();
      const after = Promise.withResolvers<unknown>();

      const aborted = store.transaction(async (tx) => {
        await store.inbox.record(tx, { scope: "s", key: "k", redrives: 0 }, "handled");
        await database.addEffect(tx, "before");
        reached.resolve();
        await go.promise;
        try {
          await database.addEffect(tx, "after");
          await store.outbox.append(tx, [entry("after")]);
          after.resolve("it went on");
        } catch (error) {
          after.resolve(error);
          throw error;
        }
      }, abort.signal);
      await reached.promise;
      abort.abort(reason);
      await assert.rejects(aborted);
      // Others use what the transaction had used.
      await Promise.all(
        Array.from({ length: 5 }, (_, i) => store.transaction((tx) => database.addEffect(tx, `${i}`))),
      );
      go.resolve();

      assert.ok((await after.promise) instanceof Error, "the handler could go on writing");
      assert.deepEqual((await database.effects()).toSorted(), ["0", "1", "2", "3", "4"]);
      assert.deepEqual(await world.rows(store.outbox), []);
      await eventually(async () => {
        const answer = await store.transaction((tx) =>
          store.inbox.record(tx, { scope: "s", key: "k", redrives: 0 }, "handled"),
        );
        assert.equal(answer, "fresh");
      });
    },
  ),

  storeScenario("T3", "one that is aborted before it could begin does nothing", async (world) => {
    const store = await world.store();
    const { database } = world;
    const go = Promise.withResolvers<void>();
    // As many as it takes to make others wait.
    const busy = Array.from({ length: store.concurrentTransactions ? 40 : 1 }, () =>
      store.transaction(() => go.promise),
    );
    const abort = new AbortController();

    const waiting = store.transaction((tx) => database.addEffect(tx, "no"), abort.signal);
    waiting.catch(() => undefined);
    abort.abort(new Error("no longer needed"));
    await assert.rejects(waiting);
    await assert.rejects(store.transaction((tx) => database.addEffect(tx, "no"), abort.signal));
    go.resolve();
    await Promise.all(busy);

    assert.deepEqual(await database.effects(), []);
  }),

  storeScenario(
    "T4",
    "once a transaction has ended, using its handle fails and has no effect",
    async (world) => {
      const store = await world.store();
      const { database } = world;
      const ended: unknown[] = [];
      await store.transaction(async (tx) => void ended.push(tx));
      await assert.rejects(
        store.transaction(async (tx) => {
          ended.push(tx);
          throw new Error("rolled back");
        }),
      );

      const go = Promise.withResolvers<void>();
      // The connections of the ended ones are in use again, by transactions that will commit.
      const others = Array.from({ length: store.concurrentTransactions ? 10 : 1 }, () =>
        store.transaction(() => go.promise),
      );
      for (const tx of ended) {
        await assert.rejects(async () => database.addEffect(tx, "late"));
        await assert.rejects(async () => store.outbox.append(tx, [entry("late")]), { code: "ERR_TX" });
      }
      go.resolve();
      await Promise.all(others);

      assert.deepEqual(await database.effects(), []);
      assert.deepEqual(await world.rows(store.outbox), []);
    },
  ),

  storeScenario(
    "T5",
    "a transaction never resolves without its effects, whatever its handler swallows",
    async (world) => {
      const store = await world.store();
      const { database } = world;

      const outcome = await store
        .transaction(async (tx) => {
          await store.inbox.record(tx, { scope: "s", key: "k", redrives: 0 }, "handled");
          await database.addEffect(tx, "effect");
          await database.fail(tx).catch(() => undefined);
        })
        .then(
          () => "resolved",
          (error: unknown) => error,
        );

      if (outcome === "resolved") return assert.deepEqual(await database.effects(), ["effect"]);
      assert.deepEqual(await database.effects(), []);
      // Trying again changes nothing: this is the handler's failure, and counts as one.
      assert.ok(MessagingError.is(outcome) && !outcome.retryable, String(outcome));
    },
  ),

  storeScenario("T6", "many at once, which also claim and send, all come to an end", async (world) => {
    const store = await world.store();
    const { database } = world;

    await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        store.transaction(async (tx) => {
          const key = { scope: "s", key: `${i}`, redrives: 0 };
          assert.equal(await store.inbox.record(tx, key, "handled"), "fresh");
          await database.addEffect(tx, `${i}`);
          await store.outbox.append(tx, [entry(`${i}`)]);
        }),
      ).concat(
        Array.from({ length: 100 }, async (_, i) => {
          await store.inbox.claim([{ scope: "c", key: `${i}`, redrives: 0, token: "t" }], 600_000);
          await store.outbox.fetch({ above: 0n, parkedTopics: [], limit: 10 });
        }),
      ),
    );

    assert.equal((await database.effects()).length, 100);
    assert.equal((await world.rows(store.outbox)).length, 100);
  }),

  storeScenario(
    "T7",
    "when the answer to a commit is lost the transaction rejects, and the inbox knows when asked again",
    async (world) => {
      const { database } = world;
      const store = await world.store();
      const key = { scope: "s", key: "k", redrives: 0 };
      let outcomes = 0;

      for (const n of Array(10).keys()) {
        let release: (() => Promise<void>) | undefined;
        const attempt = store.transaction(async (tx) => {
          if ((await store.inbox.record(tx, { ...key, key: `${n}` }, "handled")) === "fresh")
            await database.addEffect(tx, `${n}`);
          release = await database.faults?.holdReplies();
        });
        const watched = watch(attempt);
        await eventually(() => assert.ok(release !== undefined));
        // Now the COMMIT goes out; every other time it is cut off as early as can be.
        if (n % 2 === 0) await eventually(async () => assert.ok((await database.effects()).includes(`${n}`)));
        assert.equal(watched.settled, false);
        await database.faults?.cutConnections();
        await assert.rejects(attempt, { name: "StoreError", code: "ERR_STORE", retryable: true });
        await release?.();

        await eventually(async () => {
          const answer = await store.transaction(async (tx) => {
            const again = await store.inbox.record(tx, { ...key, key: `${n}` }, "handled");
            if (again === "fresh") await database.addEffect(tx, `${n}`);
            return again;
          });
          assert.notEqual(answer, "busy");
          outcomes += 1;
        });
      }

      assert.equal(outcomes, 10);
      assert.deepEqual(
        (await database.effects()).toSorted(),
        Array.from({ length: 10 }, (_, n) => `${n}`),
      );
      await eventually(() => assert.equal(store.health().connected, true));
    },
    needsServer,
  ),

  storeScenario("T8", "closing ends what is open, and afterwards everything is refused", async (world) => {
    const store = await world.store();
    const { database } = world;
    const entered = Promise.withResolvers<void>();
    const open = store.transaction(async (tx) => {
      await database.addEffect(tx, "open");
      entered.resolve();
      await new Promise(() => undefined);
    });
    open.catch(() => undefined);
    await entered.promise;

    await store.close();
    await store.close();

    await assert.rejects(open);
    await assert.rejects(store.transaction(async () => undefined));
    await assert.rejects(store.outbox.fetch({ above: 0n, parkedTopics: [], limit: 1 }));
    await assert.rejects(store.inbox.claim([{ scope: "s", key: "k", redrives: 0, token: "t" }], 1_000));
    assert.equal(store.health().connected, false);
    assert.deepEqual(await database.effects(), []);
  }),
];
