/** H: one relay at a time, and one that has lost the lease without noticing does no harm. */
import assert from "node:assert/strict";
import { type Runtime, nodeRuntime } from "../../clock.ts";
import { eventually } from "../eventually.ts";
import { type StoreScenario, needsServer, storeScenario } from "./scenario.ts";
import { entry } from "./world.ts";

const long = 600_000;

/** A process whose wall clock is wrong. */
const skewed = (ms: number): Runtime => ({ ...nodeRuntime, now: () => nodeRuntime.now() + ms });

export const lease: readonly StoreScenario[] = [
  storeScenario("H1", "the lease is held by one until it lets go, and its epoch rises", async (world) => {
    const [{ outbox: a }, { outbox: b }] = [await world.store(), await world.store()];

    const first = await a.acquire("a", long);
    const refused = [await b.acquire("b", long), await a.acquire("a", long)];
    await b.surrender("b", first?.epoch ?? 0n);
    await b.surrender("a", (first?.epoch ?? 0n) + 1n);
    const still = await b.acquire("b", long);
    await a.surrender("a", first?.epoch ?? 0n);
    const second = await b.acquire("b", long);

    assert.equal(first?.clean, true);
    assert.deepEqual([...refused, still], [undefined, undefined, undefined]);
    assert.equal(second?.clean, true);
    assert.ok((second?.epoch ?? 0n) > (first?.epoch ?? 0n));
  }),

  storeScenario(
    "H2",
    "a lease that ran out goes to the next, who learns of it; then renewing fails",
    async (world) => {
      const [{ outbox: a }, { outbox: b }] = [await world.store(), await world.store()];

      const first = await world.lease({ outbox: a } as never, "a", 50);
      const second = await world.lease({ outbox: b } as never, "b", long);
      const renewals = [
        await a.renew("a", first.epoch, long),
        await a.renew("b", first.epoch, long),
        await a.renew("a", second.epoch, long),
        await b.renew("b", second.epoch, long),
      ];

      assert.equal(second.clean, false);
      assert.ok(second.epoch > first.epoch);
      assert.deepEqual(renewals, [undefined, undefined, undefined, "key"]);
    },
  ),

  storeScenario("H3", "a lease that is renewed does not run out", async (world) => {
    const [{ outbox: a }, { outbox: b }] = [await world.store(), await world.store()];
    const { epoch } = await world.lease({ outbox: a } as never, "a", 2_000);

    const renewed = await a.renew("a", epoch, long);
    await nodeRuntime.sleep(2_100);

    assert.equal(renewed, "key");
    assert.equal(await b.acquire("b", 1), undefined);
  }),

  storeScenario("H4", "of many who ask at once, one gets it", async (world) => {
    const stores = await Promise.all(Array.from({ length: 6 }, () => world.store()));

    for (let round = 0; round < 10; round += 1) {
      const leases = await Promise.all(stores.map(({ outbox }, i) => outbox.acquire(`${i}`, long)));
      const holders = leases.flatMap((held, i) => (held === undefined ? [] : [{ i, ...held }]));
      assert.equal(holders.length, 1);
      for (const { i, epoch } of holders) await stores[i]?.outbox.surrender(`${i}`, epoch);
    }
  }),

  storeScenario(
    "H5",
    "wrong clocks of processes neither take a lease early nor keep one longer",
    async (world) => {
      const fast = await world.store(skewed(3_600_000));
      const slow = await world.store(skewed(-3_600_000));

      const held = await world.lease(slow, "slow", 2_000);
      const early = await fast.outbox.acquire("fast", long);
      const claim = { scope: "s", key: "k", redrives: 0, token: "slow" };
      const answers = [
        await slow.inbox.claim([claim], 2_000),
        await fast.inbox.claim([{ ...claim, token: "fast" }], long),
      ];
      const later = await world.lease(fast, "fast", long);
      const takenOver = await eventually(async () => {
        const [answer] = await fast.inbox.claim([{ ...claim, token: "fast" }], long);
        assert.equal(answer, "fresh");
        return answer;
      });

      assert.ok(held.epoch > 0n);
      assert.equal(early, undefined);
      assert.deepEqual(answers, [["fresh"], ["busy"]]);
      assert.ok(later.epoch > held.epoch);
      assert.equal(takenOver, "fresh");
    },
    needsServer,
  ),

  storeScenario("H6", "after a takeover the one before can neither remove nor park", async (world) => {
    const store = await world.store();
    for (const id of ["0", "1", "2"]) await world.commit(store, entry(id));
    const { rows } = await store.outbox.fetch({ above: 0n, parkedTopics: [], limit: 10 });
    const [row0, row1] = rows;
    assert.ok(row0 !== undefined && row1 !== undefined);

    const zombie = await world.lease(store, "zombie", 50);
    const holder = await world.lease(store, "holder", long);
    const removed = await store.outbox.remove([row0.seq], zombie.epoch);
    const parked = await store.outbox.park(row0, zombie.epoch, "no");
    const left = await world.rows(store.outbox);
    const removedByHolder = await store.outbox.remove([row0.seq, 999_999n], holder.epoch);
    const parkedByHolder = await store.outbox.park(row1, holder.epoch, "too large");

    assert.deepEqual([removed.fenced, parked.fenced], [true, true]);
    assert.deepEqual(left, ["0", "1", "2"]);
    assert.deepEqual([removedByHolder.fenced, parkedByHolder.fenced], [false, false]);
    assert.deepEqual(await world.rows(store.outbox), ["2"]);
    assert.equal((await store.outbox.backlog()).parked, 1);
  }),

  storeScenario(
    "H7",
    "the backlog says how much waits, for how long, and whether somebody relays",
    async (world) => {
      const store = await world.store();
      const empty = await store.outbox.backlog();
      for (let n = 0; n < 7; n += 1) await world.commit(store, entry(`${n}`));
      const { rows } = await store.outbox.fetch({ above: 0n, parkedTopics: [], limit: 3 });

      const full = await store.outbox.backlog();
      const { epoch } = await world.lease(store);
      await store.outbox.remove(
        rows.map(({ seq }) => seq),
        epoch,
      );
      const less = await store.outbox.backlog();
      await store.outbox.surrender("relay", epoch);
      const unattended = await store.outbox.backlog();

      assert.deepEqual(empty, { depth: 0, oldestMs: 0, parked: 0, relayed: false });
      assert.deepEqual([full.depth, full.relayed], [7, false]);
      assert.ok(full.oldestMs >= 0 && full.oldestMs < 60_000);
      assert.deepEqual([less.depth, less.relayed, unattended.relayed], [4, true, false]);
    },
  ),

  storeScenario("H8", "the order is kept with the lease until another is named", async (world) => {
    const { outbox } = await world.store();
    const orders: unknown[] = [];
    for (const named of [undefined, "global", undefined, "none", "key", undefined] as const) {
      const lease = await outbox.acquire("relay", long, named);
      orders.push(lease?.order, await outbox.renew("relay", lease?.epoch ?? 0n, long));
      await outbox.surrender("relay", lease?.epoch ?? 0n);
    }

    const kept = ["key", "global", "global", "none", "key", "key"];
    assert.deepEqual(
      orders,
      kept.flatMap((order) => [order, order]),
    );
  }),

  storeScenario(
    "H9",
    "a holder that named its order is not overruled; one that named none learns when it renews",
    async (world) => {
      const [{ outbox: a }, { outbox: b }] = [await world.store(), await world.store()];

      const naming = await a.acquire("a", long, "none");
      const refused = [await b.requestOrder("global"), await b.requestOrder("none")];
      const renewed = await a.renew("a", naming?.epoch ?? 0n, long);
      await a.surrender("a", naming?.epoch ?? 0n);
      const following = await a.acquire("a", long);
      const heard = [await b.requestOrder("global"), await b.requestOrder("global")];
      const learned = await a.renew("a", following?.epoch ?? 0n, long);
      await a.surrender("a", following?.epoch ?? 0n);
      await b.requestOrder("key");
      const free = await b.acquire("b", long);

      assert.deepEqual([...refused, renewed], ["none", "none", "none"]);
      assert.deepEqual([following?.order, ...heard, learned], ["none", "global", "global", "global"]);
      assert.equal(free?.order, "key");
    },
  ),

  storeScenario(
    "H10",
    "the order of a holder that is gone stays, and no longer keeps another from being named",
    async (world) => {
      const [{ outbox: a }, { outbox: b }] = [await world.store(), await world.store()];

      await a.acquire("a", 50, "global");
      const later = await eventually(async () => {
        const order = await b.requestOrder("none");
        assert.equal(order, "none");
        return order;
      });
      const next = await eventually(async () => {
        const lease = await b.acquire("b", long);
        assert.ok(lease !== undefined);
        return lease;
      });

      assert.deepEqual([later, next.order, next.clean], ["none", "none", false]);
    },
  ),
];
