import assert from "node:assert/strict";
import type { DatabaseSync } from "node:sqlite";
import type { FakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { watch } from "../../../src/testing/store/world.ts";
import { type TestBus, openBus, until } from "../support/bus.ts";
import { errorOf, messagingErrorOf } from "../support/errors.ts";
import { type TestStore, openStore, storeDown } from "../support/store.ts";
import { busOn, topic } from "./world.ts";

const effect = (tx: unknown, id: string): void => {
  (tx as DatabaseSync).prepare("INSERT INTO effects (id) VALUES (?)").run(id);
};
const effects = (database: TestStore): unknown[] =>
  database.rows("SELECT id FROM effects").map((row) => (row as { id: string }).id);

/** What it comes to, while as much time passes as it takes. */
async function passing<T>({ runtime }: TestBus, promise: Promise<T>): Promise<T> {
  const watched = watch(promise);
  for (let i = 0; !watched.settled && i < 2_000; i++) await runtime.advance(50);
  return promise;
}

async function elapsed(runtime: FakeRuntime, work: () => Promise<unknown>): Promise<number> {
  const from = runtime.monotonic();
  await work();
  return runtime.monotonic() - from;
}

describe("once, in a transaction", () => {
  it("runs the function once, and gives every repeat what the first call got", async () => {
    const database = await openStore();
    const world = busOn(database);
    const run = (): Promise<unknown> =>
      world.bus.once("k", async (tx, outbox) => {
        effect(tx, "paid");
        await outbox.publish(topic, "one");
        return { at: new Date(0), left: undefined, list: [1, null, "ü\u0000"] };
      });

    const results = [await passing(world, run()), await passing(world, run())];

    const expected = { at: "1970-01-01T00:00:00.000Z", list: [1, null, "ü\u0000"] };
    assert.deepEqual(structuredClone(results), [expected, expected]);
    assert.deepEqual(effects(database), ["paid"]);
  });

  it("may have no result, and tells keys apart by their scope", async () => {
    const database = await openStore();
    const world = busOn(database);
    const run = (scope?: string): Promise<unknown> =>
      passing(
        world,
        world.bus.once("k", (tx) => effect(tx, scope ?? "none"), { scope }),
      );

    assert.equal(await run(), undefined);
    assert.equal(await run(), undefined);
    await run("charge");
    await run("refund");
    await run("charge");

    assert.deepEqual(effects(database), ["none", "charge", "refund"]);
  });

  it("stores nothing of a function that fails, and rejects with its very error", async () => {
    const database = await openStore();
    const world = busOn(database);
    const failure = new Error("mine");
    const failing = world.bus.once("k", (tx) => {
      effect(tx, "gone");
      throw failure;
    });

    assert.equal(await errorOf(() => passing(world, failing)), failure);
    assert.equal(
      await passing(
        world,
        world.bus.once("k", async () => 7),
      ),
      7,
    );
    assert.deepEqual(effects(database), []);
  });

  it("rolls back when the result cannot be stored, and says why", async () => {
    const database = await openStore();
    const world = busOn(database);
    const wrong: readonly [unknown, "ERR_ENCODE" | "ERR_TOO_LARGE", RegExp][] = [
      [() => 1, "ERR_ENCODE", /the result for "k" cannot be stored: the value at \$ is a function/u],
      [{ n: NaN }, "ERR_ENCODE", /\$\.n is NaN/u],
      [new Map(), "ERR_ENCODE", /instance of Map/u],
      [1n, "ERR_ENCODE", /bigint/u],
      ["x".repeat(1_048_576), "ERR_TOO_LARGE", /1,048,578 > 1,048,576 bytes/u],
    ];
    for (const [result, code, message] of wrong) {
      const error = await messagingErrorOf(code, () =>
        passing(
          world,
          world.bus.once("k", async (tx) => {
            effect(tx, "gone");
            return result;
          }),
        ),
      );
      assert.match(error.message, message);
    }
    assert.deepEqual(effects(database), []);
    assert.equal(
      await passing(
        world,
        world.bus.once("k", () => "fine"),
      ),
      "fine",
    );
  });

  it("is answered by the store when the commit was not", async () => {
    const database = await openStore();
    const world = busOn(database);
    let lost = 0;
    database.faults.after = (operation) =>
      operation === "transaction" && (lost += 1) === 1 ? storeDown() : undefined;
    const run = (): Promise<unknown> =>
      passing(
        world,
        world.bus.once("k", (tx) => {
          effect(tx, "paid");
          return "receipt";
        }),
      );

    const error = await messagingErrorOf("ERR_STORE", run);
    assert.equal(error.retryable, true);
    assert.equal(await run(), "receipt");
    assert.deepEqual(effects(database), ["paid"]);
  });

  it("is rolled back when its signal aborts, and may run again", async () => {
    const database = await openStore();
    const world = busOn(database);
    const controller = new AbortController();
    const started = Promise.withResolvers<void>();
    const aborted = world.bus.once(
      "k",
      async (tx) => {
        effect(tx, "gone");
        started.resolve();
        await new Promise(() => undefined);
      },
      { signal: controller.signal },
    );
    const outcome = errorOf(() => aborted);
    await passing(world, started.promise);
    controller.abort("enough");

    assert.equal(await passing(world, outcome), "enough");
    assert.equal(
      await passing(
        world,
        world.bus.once("k", () => 1),
      ),
      1,
    );
    assert.deepEqual(effects(database), []);
  });
});

describe("once, by lease", () => {
  const byLease = { by: "lease", lease: "30s" } as const;

  /** A call that runs until it is told to end. */
  function running(world: TestBus, options: object = byLease) {
    const started = Promise.withResolvers<AbortSignal>();
    const end = Promise.withResolvers<string>();
    let runs = 0;
    const call = world.bus.once(
      "k",
      (signal: AbortSignal) => {
        runs += 1;
        started.resolve(signal);
        return end.promise;
      },
      { ...byLease, ...options },
    );
    call.catch(() => undefined);
    return { call, started: started.promise, end, runs: () => runs };
  }

  it("gives a call that comes meanwhile, here or elsewhere, the result of the one that runs", async () => {
    const database = await openStore();
    const world = busOn(database);
    const first = running(world);
    await passing(world, first.started);
    const others = [world, busOn({ ...database, store: database.another() }, undefined, world.runtime)].map(
      (each) => each.bus.once("k", async () => "second", byLease),
    );
    await world.runtime.advance(2_000);
    first.end.resolve("first");

    const results = await passing(world, Promise.all([first.call, ...others]));
    assert.deepEqual(results, ["first", "first", "first"]);
  });

  it("tells a call that has waited long enough to try again later", async () => {
    const database = await openStore();
    const world = busOn(database);
    const first = running(world);
    await passing(world, first.started);
    const busy = (wait?: "10s" | 0): Promise<unknown> =>
      messagingErrorOf("ERR_CLAIM_HELD", () =>
        passing(
          world,
          world.bus.once("k", async () => 1, { ...byLease, wait }),
        ),
      );

    const waits = [await elapsed(world.runtime, () => busy(0)), await elapsed(world.runtime, () => busy())];
    assert.ok((waits[0] ?? 0) < 1_000, `${waits[0]} ms`);
    assert.ok((waits[1] ?? 0) >= 9_000 && (waits[1] ?? 0) < 11_000, `${waits[1]} ms`);
    assert.equal(((await busy(0)) as { retryable: boolean }).retryable, true);

    const controller = new AbortController();
    const waiting = errorOf(() =>
      world.bus.once("k", async () => 1, { ...byLease, signal: controller.signal }),
    );
    await world.runtime.advance(200);
    controller.abort("enough");
    assert.equal(await passing(world, waiting), "enough");
    first.end.resolve("first");
    assert.equal(await passing(world, first.call), "first");
  });

  it("keeps its claim however long it runs", async () => {
    const database = await openStore();
    const world = busOn(database);
    const first = running(world);
    const signal = await passing(world, first.started);
    for (let i = 0; i < 120; i++) await world.runtime.advance(1_000);
    await messagingErrorOf("ERR_CLAIM_HELD", () =>
      passing(
        world,
        world.bus.once("k", async () => 1, { ...byLease, wait: 0 }),
      ),
    );
    first.end.resolve("late");

    assert.equal(await passing(world, first.call), "late");
    assert.equal(signal.aborted, false);
  });

  it("lets the key go when the function fails, and says that to nobody else", async () => {
    const database = await openStore();
    const world = busOn(database);
    const failure = new Error("mine");
    const failing = world.bus.once("k", () => Promise.reject(failure), byLease);

    assert.equal(await errorOf(() => passing(world, failing)), failure);
    assert.equal(
      await passing(
        world,
        world.bus.once("k", async () => "again", { ...byLease, wait: 0 }),
      ),
      "again",
    );
  });

  it("insists on the result after the effects, while the store fails", async () => {
    const database = await openStore();
    const world = busOn(database);
    let failed = 0;
    database.faults.before = (operation) =>
      operation === "inbox.complete" && (failed += 1) <= 3 ? storeDown() : undefined;
    const first = running(world);
    first.end.resolve("paid");

    assert.equal(await passing(world, first.call), "paid");
    assert.equal(failed, 4);
    assert.equal(
      await passing(
        world,
        world.bus.once("k", async () => "again", byLease),
      ),
      "paid",
    );
    assert.equal(first.runs(), 1);
  });

  it("tells the function when its claim is lost, and gives both calls the result that was stored", async () => {
    const database = await openStore();
    const world = busOn(database);
    const first = running(world);
    const signal = await passing(world, first.started);
    // As a process that is frozen: it extends nothing, and then the store answers it again.
    database.faults.before = (operation) => (operation === "inbox.extend" ? storeDown() : undefined);
    for (let i = 0; i < 45 && !signal.aborted; i++) await world.runtime.advance(1_000);
    assert.equal((signal.reason as { code: string }).code, "ERR_LEASE_LOST");
    const second = busOn({ ...database, store: database.another() }, undefined, world.runtime);
    assert.equal(
      await passing(
        second,
        second.bus.once("k", async () => "theirs", byLease),
      ),
      "theirs",
    );
    first.end.resolve("mine");

    assert.equal(await passing(world, first.call), "theirs");
  });

  it("does not claim to have stored what another call is running with", async () => {
    const database = await openStore();
    const world = busOn(database);
    const first = running(world);
    const signal = await passing(world, first.started);
    database.faults.before = (operation) => (operation === "inbox.extend" ? storeDown() : undefined);
    for (let i = 0; i < 45 && !signal.aborted; i++) await world.runtime.advance(1_000);
    const second = running(busOn({ ...database, store: database.another() }, undefined, world.runtime));
    await passing(world, second.started);
    first.end.resolve("mine");

    await messagingErrorOf("ERR_LEASE_LOST", () => passing(world, first.call));
    second.end.resolve("theirs");
    assert.equal(await passing(world, second.call), "theirs");
  });
});

describe("once: what it is given", () => {
  it("refuses what cannot be meant, before anything is done", async () => {
    const database = await openStore();
    const { bus, runtime } = busOn(database);
    const run = async (): Promise<number> => 1;
    const wrong: readonly [readonly unknown[], RegExp][] = [
      [["k", run, { scpoe: "x" }], /unknown option "scpoe" \(did you mean "scope"\?\)/u],
      [["k", run, { lease: "30s" }], /once by "transaction": unknown option "lease"/u],
      [["k", run, { by: "leese" }], /once by must be/u],
      [["k", run, { by: "lease", lease: 10 }], /once lease/u],
      [["k", run, { wait: -1 }], /once wait/u],
      [["k", run, { scope: "x".repeat(201) }], /once scope/u],
      [["k", 1], /once must be a function/u],
    ];
    for (const [given, message] of wrong)
      assert.match(
        (await messagingErrorOf("ERR_CONFIG", () => bus.once(...(given as Parameters<typeof bus.once>))))
          .message,
        message,
      );
    for (const key of ["", "x".repeat(256), "\ud800", 1 as never])
      await messagingErrorOf("ERR_ID", () => bus.once(key, run));
    await messagingErrorOf("ERR_CONFIG", () => openBus().bus.once("k", run));
    await until(runtime, () => true);
    assert.deepEqual(database.rows("SELECT name FROM sqlite_master WHERE name = 'postrider_inbox'"), []);
  });
});
