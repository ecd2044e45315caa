/** N: the inbox says of each delivery whether it is to be handled, and nobody waits for an answer. */
import assert from "node:assert/strict";
import type { InboxAnswer, InboxClaim, InboxKey, InboxOutcome, Store } from "../../store.ts";
import { eventually } from "../eventually.ts";
import { type StoreScenario, needsConcurrency, storeScenario } from "./scenario.ts";

const long = 600_000;
const scope = "topic--group";
const keyOf = (key: string, redrives = 0): InboxKey => ({ scope, key, redrives });
const claimOf = (key: string, token: string, redrives = 0): InboxClaim => ({
  ...keyOf(key, redrives),
  token,
});

/** Records in a transaction that commits, and has an effect if the message was fresh. */
const record = (store: Store, key: InboxKey, outcome: InboxOutcome = "handled"): Promise<InboxAnswer> =>
  store.transaction((tx) => store.inbox.record(tx, key, outcome));

const claim = async (store: Store, one: InboxClaim, leaseMs = long): Promise<InboxAnswer | undefined> => {
  const answers = await store.inbox.claim([one], leaseMs);
  assert.equal(answers.length, 1);
  return answers[0];
};

const rollback = new Error("rolled back");

export const inbox: readonly StoreScenario[] = [
  storeScenario("N1", "a message is fresh until a transaction that recorded it commits", async (world) => {
    const [store, other] = [await world.store(), await world.store()];

    const attempt = store.transaction(async (tx) => {
      assert.equal(await store.inbox.record(tx, keyOf("m"), "handled"), "fresh");
      throw rollback;
    });
    await assert.rejects(attempt, rollback);
    const answers = [
      await record(store, keyOf("m")),
      await record(store, keyOf("m")),
      await record(other, keyOf("m")),
    ];
    const elsewhere = await record(store, { ...keyOf("m"), scope: "topic--other" });

    assert.deepEqual(answers, ["fresh", "duplicate", "duplicate"]);
    assert.equal(elsewhere, "fresh");
  }),

  storeScenario(
    "N2",
    "a copy that comes while the message is being handled is busy, at once, whatever becomes of the first",
    async (world) => {
      const store = await world.store();
      for (const outcome of ["committed", "rolled back"]) {
        const entered = Promise.withResolvers<InboxAnswer>();
        const go = Promise.withResolvers<void>();
        const first = store.transaction(async (tx) => {
          entered.resolve(await store.inbox.record(tx, keyOf(outcome), "handled"));
          await go.promise;
          if (outcome === "rolled back") throw rollback;
        });
        assert.equal(await entered.promise, "fresh");

        // The first ends only after these have their answers: one that waited would wait for ever.
        const meanwhile = [
          await record(store, keyOf(outcome)),
          await claim(store, claimOf(outcome, "token")),
          ...(await store.inbox.claim([claimOf(outcome, "a"), claimOf(`other than ${outcome}`, "b")], long)),
        ];
        go.resolve();
        await first.catch((error: unknown) => assert.equal(error, rollback));

        assert.deepEqual(meanwhile, ["busy", "busy", "busy", "fresh"]);
        assert.equal(await record(store, keyOf(outcome)), outcome === "committed" ? "duplicate" : "fresh");
      }
    },
    needsConcurrency,
  ),

  storeScenario(
    "N3",
    "a redriven message runs again if it was dead-lettered, never if it was handled or discarded",
    async (world) => {
      const store = await world.store();
      for (const outcome of ["handled", "dead", "discarded"] as const) {
        await record(store, keyOf(`recorded ${outcome}`), outcome);
        await claim(store, claimOf(`claimed ${outcome}`, "t"));
        await store.inbox.complete([{ ...claimOf(`claimed ${outcome}`, "t"), outcome }]);
      }
      const again = async (key: string, redrives: number): Promise<(InboxAnswer | undefined)[]> => [
        await store
          .transaction(async (tx) => {
            throw await store.inbox.record(tx, keyOf(key, redrives), "handled");
          })
          .catch((answer: InboxAnswer) => answer),
        await claim(store, claimOf(key, "u", redrives)),
      ];

      for (const way of ["recorded", "claimed"]) {
        for (const outcome of ["handled", "discarded"]) {
          assert.deepEqual(await again(`${way} ${outcome}`, 0), ["duplicate", "duplicate"]);
          assert.deepEqual(await again(`${way} ${outcome}`, 1), ["duplicate", "duplicate"]);
        }
        assert.deepEqual(await again(`${way} dead`, 0), ["duplicate", "duplicate"]);
        assert.deepEqual(await again(`${way} dead`, 1), ["fresh", "fresh"]);
      }
      // It runs now, redriven. A late copy from before its death does not.
      await store.inbox.release([claimOf("claimed dead", "u", 1)]);
      assert.deepEqual(await again("claimed dead", 0), ["duplicate", "duplicate"]);
      assert.equal(await record(store, keyOf("claimed dead", 1), "dead"), "fresh");
      assert.deepEqual(await again("claimed dead", 1), ["duplicate", "duplicate"]);
      assert.deepEqual(await again("claimed dead", 2), ["fresh", "fresh"]);
    },
  ),

  storeScenario(
    "N4",
    "a claim keeps others away until it is completed, released or has run out",
    async (world) => {
      const [store, other] = [await world.store(), await world.store()];

      assert.equal(await claim(store, claimOf("m", "a")), "fresh");
      assert.equal(await claim(other, claimOf("m", "b")), "busy");
      assert.equal(await record(other, keyOf("m")), "busy");
      await other.inbox.release([claimOf("m", "b")]);
      await other.inbox.complete([{ ...claimOf("m", "b"), outcome: "handled" }]);
      assert.equal(await claim(other, claimOf("m", "b")), "busy");
      await store.inbox.release([claimOf("m", "a")]);
      assert.equal(await claim(other, claimOf("m", "b")), "fresh");
      await other.inbox.complete([{ ...claimOf("m", "b"), outcome: "handled" }]);
      assert.equal(await claim(store, claimOf("m", "c")), "duplicate");
      assert.equal(await record(store, keyOf("m")), "duplicate");
    },
  ),

  storeScenario(
    "N5",
    "a claim that has run out can be taken over; the one before then ends nothing",
    async (world) => {
      const store = await world.store();

      for (const after of ["claim", "record"]) {
        await claim(store, claimOf(after, "old"), 30);
        await eventually(async () => {
          const answer =
            after === "claim"
              ? await claim(store, claimOf(after, "new"))
              : await record(store, keyOf(after), "discarded");
          assert.equal(answer, "fresh");
        });
        const extended = await store.inbox.extend([claimOf(after, "old")], long);
        await store.inbox.complete([{ ...claimOf(after, "old"), outcome: "dead" }]);
        await store.inbox.release([claimOf(after, "old")]);
        assert.deepEqual(extended, [false]);
      }

      assert.equal(await claim(store, claimOf("claim", "third", 1)), "busy");
      // Had the old claim's "dead" counted, a redrive could run.
      assert.equal(await claim(store, claimOf("record", "third", 1)), "duplicate");
      await store.inbox.complete([{ ...claimOf("claim", "new"), outcome: "handled" }]);
      assert.equal(await claim(store, claimOf("claim", "third")), "duplicate");
    },
  ),

  storeScenario("N6", "a claim that is extended does not run out, and says which are lost", async (world) => {
    const store = await world.store();
    await store.inbox.claim([claimOf("a", "t"), claimOf("b", "t")], 2_000);

    const extended = await store.inbox.extend(
      [claimOf("gone", "t"), claimOf("b", "t"), claimOf("a", "other"), claimOf("a", "t")],
      long,
    );
    await new Promise((resolve) => setTimeout(resolve, 2_100));

    assert.deepEqual(extended, [false, true, false, true]);
    assert.deepEqual(await store.inbox.claim([claimOf("a", "u"), claimOf("b", "u")], long), ["busy", "busy"]);
  }),

  storeScenario(
    "N7",
    "a batch of claims gets one answer each, in order; of one message's two, one is fresh",
    async (world) => {
      const store = await world.store();
      await record(store, keyOf("ended"));
      await claim(store, claimOf("held", "x"));
      const many = Array.from({ length: 300 }, (_, i) => claimOf(`n${i}`, `t${i}`));

      const answers = await store.inbox.claim(
        [
          claimOf("new", "a"),
          claimOf("ended", "a"),
          claimOf("held", "a"),
          claimOf("new", "b"),
          claimOf("ended", "b"),
        ],
        long,
      );
      const first = await store.inbox.claim(many, long);
      const second = await store.inbox.claim(many.map(({ key }) => claimOf(key, "again")).toReversed(), long);
      await store.inbox.complete(
        many.map((one, i) => ({ ...one, outcome: i % 2 === 0 ? "handled" : "dead" })),
      );
      const third = await store.inbox.claim(
        many.map(({ key }) => claimOf(key, "third", 1)),
        long,
      );

      assert.deepEqual(answers, ["fresh", "duplicate", "busy", "busy", "duplicate"]);
      assert.deepEqual(new Set(first), new Set(["fresh"]));
      assert.deepEqual(new Set(second), new Set(["busy"]));
      assert.deepEqual(
        third,
        many.map((_, i) => (i % 2 === 0 ? "duplicate" : "fresh")),
      );
      assert.deepEqual(await store.inbox.claim([], long), []);
    },
  ),

  storeScenario(
    "N8",
    "of many who claim or record one message at once, exactly one has it",
    async (world) => {
      const stores = await Promise.all([world.store(), world.store(), world.store()]);

      for (let round = 0; round < 20; round += 1) {
        const answers = await Promise.all(
          stores.flatMap((store, i) => [
            claim(store, claimOf(`m${round}`, `a${i}`)),
            claim(store, claimOf(`m${round}`, `b${i}`)),
            record(store, keyOf(`m${round}`)),
          ]),
        );
        assert.equal(answers.filter((answer) => answer === "fresh").length, 1, answers.join());
      }
    },
  ),

  storeScenario(
    "N9",
    "purging forgets the old, at most as many as asked, and never a claim that is held",
    async (world) => {
      const store = await world.store();
      for (const n of [0, 1, 2, 3, 4]) await record(store, keyOf(`m${n}`));
      await claim(store, claimOf("held", "t"));

      const young = await store.inbox.purge(long, 100);
      const purged = await eventually(async () => {
        const count = await store.inbox.purge(1, 3);
        assert.ok(count > 0);
        return count;
      });
      const more = await store.inbox.purge(0, 100);

      assert.equal(young, 0);
      assert.deepEqual([purged, more], [3, 2]);
      assert.equal(await record(store, keyOf("m0")), "fresh");
      assert.equal(await claim(store, claimOf("held", "u")), "busy");
    },
  ),

  storeScenario(
    "N10",
    "whatever foreign messages call themselves, two names are two messages",
    async (world) => {
      const store = await world.store();
      const lone = ["\ud800", "\udc00", "\ufffd"];
      const names = ["", " ", "\u0000", "a\u0000", "a\u0000b", "a", '\u0001json:"a"', "$1", "'", "\\"].concat(
        lone,
        ["x".repeat(100_000), `${"x".repeat(99_999)}y`, "漢".repeat(5_000), "é", "e\u0301"],
      );

      const claimed = await store.inbox.claim(
        names.map((name, i) => claimOf(name, `${i}`)),
        long,
      );
      await store.inbox.complete(names.map((name, i) => ({ ...claimOf(name, `${i}`), outcome: "handled" })));
      const recorded: InboxAnswer[] = [];
      for (const name of names) recorded.push(await record(store, keyOf(name)));
      for (const name of names)
        recorded.push(await record(store, { ...keyOf(name), scope: `${scope}${name.slice(0, 50)}2` }));

      assert.deepEqual(
        claimed,
        names.map(() => "fresh"),
      );
      assert.deepEqual(
        recorded.slice(0, names.length),
        names.map(() => "duplicate"),
      );
    },
  ),

  storeScenario(
    "N11",
    "a claim is kept, completed or released though a copy that was turned away still has its transaction open",
    async (world) => {
      const store = await world.store();
      const ends = {
        extend: (held: InboxClaim) => store.inbox.extend([held], long),
        complete: (held: InboxClaim) => store.inbox.complete([{ ...held, outcome: "handled" }]),
        release: (held: InboxClaim) => store.inbox.release([held]),
      };
      const results = new Map<string, unknown>();
      for (const [key, end] of Object.entries(ends)) {
        await claim(store, claimOf(key, "t"));
        const turnedAway = Promise.withResolvers<InboxAnswer>();
        const go = Promise.withResolvers<void>();
        const copy = store.transaction(async (tx) => {
          turnedAway.resolve(await store.inbox.record(tx, keyOf(key), "handled"));
          await go.promise;
        });
        assert.equal(await turnedAway.promise, "busy");

        // Whether it waits for the copy is its own choice; that it takes effect is not. By then it has long been asked for.
        const ending = end(claimOf(key, "t"));
        for (let n = 0; n < 5; n += 1) await record(store, keyOf(`${key} ${n}`));
        go.resolve();
        await copy;
        results.set(key, await ending);
      }

      assert.deepEqual(results.get("extend"), [true]);
      const answers = Object.keys(ends).map((key) => record(store, keyOf(key)));
      assert.deepEqual(await Promise.all(answers), ["busy", "duplicate", "fresh"]);
    },
    needsConcurrency,
  ),
];
