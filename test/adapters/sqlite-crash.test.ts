/** What a kill -9, a full disk and a second process do to the embedded broker: nothing. */
import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import { createBus } from "postrider";
import { sqlite } from "postrider/sqlite";
import { eventually } from "postrider/testing";
import { describe, it } from "vitest";
import { brokerPart, storePart } from "../../adapters/sqlite/schema.ts";
import { nodeRuntime } from "../../src/clock.ts";
import { insist } from "../support/sqlite-database.ts";
import { items, startHandling, steps } from "../support/sqlite-child.ts";
import { nodeFlags, openPlace, startChild } from "../support/sqlite-processes.ts";

const count = (db: DatabaseSync, table: string): number =>
  Number(db.prepare(`SELECT count(*) AS n FROM ${table}`).get()?.["n"]);

describe("sqlite, several processes and crashes", () => {
  it("keeps what it acknowledged through twenty kills, with one effect and one result each", async () => {
    await using place = await openPlace();
    const db = new DatabaseSync(place.path);
    await insist(() => db.exec("PRAGMA journal_mode = WAL; CREATE TABLE effects (id TEXT NOT NULL) STRICT"));

    for (let round = 0; round < 20; round += 1) {
      const worker = place.start("work", { name: `${round}` });
      await eventually(() => {
        const accepted = place
          .events()
          .some(({ type, id }) => type === "accepted" && id?.startsWith(`${round}a-`));
        assert.ok(accepted, worker.output());
      });
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 300));
      await worker.kill();
      // The next relay need not wait until the lease of the killed one has run out.
      await insist(() => db.exec("UPDATE postrider_relay SET expires = 0"));
    }

    const late: string[] = [];
    await using bus = createBus({ adapter: sqlite({ path: place.path }) });
    await startHandling(bus, ({ id, messageId }) => late.push(`${id} ${messageId}`));
    const logged = place.events();
    const ids = (type: string): string[] =>
      logged.flatMap((event) => (event.type === type && event.id !== undefined ? [event.id] : []));
    const effects = (): string[] =>
      db
        .prepare("SELECT id FROM effects")
        .all()
        .map((row) => String(row["id"]));
    await eventually(() => {
      assert.deepEqual(
        ["postrider_deliveries", "postrider_messages", "postrider_outbox"].map((table) => count(db, table)),
        [0, 0, 0],
      );
    }, 60_000);

    const [attempted, accepted, affected] = [new Set(ids("attempt")), ids("accepted"), effects()];
    assert.equal(new Set(affected).size, affected.length, "an effect happened twice");
    assert.deepEqual(
      accepted.filter((id) => !affected.includes(id)),
      [],
      "an acknowledged message was lost",
    );
    assert.deepEqual(
      affected.filter((id) => !attempted.has(id)),
      [],
      "an effect of a message nobody sent",
    );
    const outputs = new Set([
      ...logged.flatMap(({ type, id, messageId }) => (type === "done" ? [`${id} ${messageId}`] : [])),
      ...late,
    ]);
    assert.equal(outputs.size, affected.length, "effects and results differ");
    db.close();
  }, 120_000);

  it("lets two processes share a group without handling anything twice", async () => {
    await using place = await openPlace();
    const [first, second] = [place.start("handle"), place.start("handle")];
    await eventually(() =>
      assert.equal(
        place.events().filter(({ type }) => type === "ready").length,
        2,
        first.output() + second.output(),
      ),
    );
    await using bus = createBus({ adapter: sqlite({ path: place.path }) });

    for (let n = 0; n < 1_000; n += 100)
      await bus.publishAll(
        items,
        Array.from({ length: 100 }, (_, i) => ({ id: `${n + i}` })),
      );
    const starts = (): { id?: string; pid: number }[] =>
      place.events().filter(({ type }) => type === "start");
    await eventually(() => assert.ok(new Set(starts().map(({ id }) => id)).size === 1_000));

    assert.equal(starts().length, 1_000);
    assert.equal(new Set(starts().map(({ pid }) => pid)).size, 2, "one process has done everything");
  }, 60_000);

  it("keeps the order of a key over two processes, without overlap", async () => {
    await using place = await openPlace();
    await using bus = createBus({ adapter: sqlite({ path: place.path }) });
    await bus.declare({ groups: { g: [steps] } });
    // More keys than one process takes at a time.
    const keys = Array.from({ length: 32 }, (_, i) => `key-${i}`);
    const perKey = 20;
    place.start("follow", { handlerMs: 2 });
    place.start("follow", { handlerMs: 2 });
    await eventually(() => assert.equal(place.events().filter(({ type }) => type === "ready").length, 2));

    for (let n = 0; n < perKey; n += 1)
      await bus.publishAll(
        steps,
        keys.map((key) => ({ key, n })),
      );
    const total = keys.length * perKey;
    await eventually(
      () => assert.equal(place.events().filter(({ type }) => type === "end").length, total),
      60_000,
    );

    for (const key of keys) {
      const events = place.events().filter((event) => event.key === key);
      // Sorted by a clock both share; overlapping runs would not alternate between start and end.
      const told = events.toSorted((a, b) => a.at - b.at).map(({ type, id }) => `${type} ${id}`);
      const expected = Array.from({ length: perKey }, (_, n) => [`start ${n}`, `end ${n}`]).flat();
      assert.deepEqual(told, expected, key);
    }
    const pids = new Set(place.events().flatMap(({ type, pid }) => (type === "start" ? [pid] : [])));
    assert.equal(pids.size, 2, "one process has done everything");
  }, 90_000);

  it("hands over what another process publishes without waiting for the next look at the clock", async () => {
    await using place = await openPlace();
    const received: string[] = [];
    // Without the timers of a second and more only the look-out can see it.
    const { nodeRuntime } = await import("../../src/clock.ts");
    const runtime = {
      ...nodeRuntime,
      setTimer: (ms: number, fn: () => void, options?: { readonly unref?: boolean }) =>
        nodeRuntime.setTimer(ms >= 900 ? 3_600_000 : ms, fn, options),
    };
    await using bus = createBus({ adapter: sqlite({ path: place.path }), runtime });
    await bus.consume(items, { group: "g", once: false }, ({ id }) => void received.push(id));
    const publisher = place.start("publish", { name: "other", count: 3 });

    assert.equal(await publisher.exit, 0, publisher.output());
    await eventually(() => assert.deepEqual(received.toSorted(), ["other-0", "other-1", "other-2"]));
    await bus.close({ timeout: 0 });
  }, 60_000);

  it("makes its tables once when several processes start at the same time on no file", async () => {
    await using place = await openPlace();
    const starting = Array.from({ length: 4 }, () => place.start("connect"));

    for (const child of starting) assert.equal(await child.exit, 0, child.output());

    assert.equal(place.events().length, 4);
    const db = new DatabaseSync(place.path);
    const parts = db.prepare("SELECT part, version FROM postrider_schema ORDER BY part").all();
    assert.deepEqual(
      parts.map(({ part, version }) => ({ part, version })),
      [
        { part: "broker", version: brokerPart.version },
        { part: "store", version: storePart.version },
      ],
    );
    db.close();
  }, 60_000);

  it("lets a process that was kept from extending its leases keep its deliveries", async () => {
    await using place = await openPlace();
    await using bus = createBus({ adapter: sqlite({ path: place.path }) });
    await bus.declare({ groups: { g: [items] } });
    const slow = place.start("handle", { handlerMs: 5_000, lease: "2s" });
    await eventually(() =>
      assert.ok(
        place.events().some(({ type }) => type === "ready"),
        slow.output(),
      ),
    );
    await bus.publishAll(items, [{ id: "1" }, { id: "2" }, { id: "3" }]);
    await eventually(() => assert.equal(place.events().filter(({ type }) => type === "start").length, 3));
    const others = [place.start("handle", { lease: "2s" }), place.start("handle", { lease: "2s" })];
    await eventually(() => assert.equal(place.events().filter(({ type }) => type === "ready").length, 3));

    // Nobody can write for longer than the leases last; then everybody wants to at the same time.
    const holder = new DatabaseSync(place.path);
    await insist(() => holder.exec("BEGIN IMMEDIATE"));
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    holder.exec("ROLLBACK");
    holder.close();
    await eventually(() => assert.equal(place.events().filter(({ type }) => type === "end").length, 3));

    const starts = place.events().filter(({ type }) => type === "start");
    assert.equal(starts.length, 3, others.map((other) => other.output()).join());
  }, 60_000);

  it("hands over what a killed process held, also while transactions keep the file busy without end", async () => {
    await using place = await openPlace();
    await using bus = createBus({ adapter: sqlite({ path: place.path }) });
    await bus.declare({ groups: { g: [items] } });
    const victim = place.start("handle", { handlerMs: 60_000, lease: "1s" });
    await eventually(() => assert.ok(place.events().some(({ type }) => type === "ready")));
    await bus.publish(items, { id: "held" });
    await eventually(() => assert.ok(place.events().some(({ type }) => type === "start")));
    await victim.kill();
    const received: string[] = [];
    await bus.consume(items, { group: "g", once: false }, ({ id }) => void received.push(id));

    await eventually(async () => {
      await bus.transaction(() => new Promise((resolve) => setTimeout(resolve, 150)));
      assert.deepEqual(received, ["held"]);
    });
  }, 60_000);

  it("rejects what a full disk does not take, keeps what it acknowledged, and goes on when there is room", async () => {
    await using place = await openPlace();
    await using before = createBus({ adapter: sqlite({ path: place.path }) });
    await before.declare({ groups: { g: [items] } });
    await before.close();
    const script = new URL("../support/sqlite-child.ts", import.meta.url).pathname;
    const options = JSON.stringify({ log: place.log, name: "full", count: 120 });
    // No file may grow beyond a megabyte; Node ignores the signal, so that writes fail as on a full disk.
    const child = startChild(
      [...nodeFlags, script, "publish", place.path, options],
      `ulimit -f 1024; exec "$@"`,
    );
    await child.exit;
    if (process.env.SHOW) console.log(child.output());
    const events = place.events();
    const accepted = events.flatMap(({ type, id }) => (type === "accepted" ? [id ?? ""] : []));
    assert.ok(accepted.length > 0, child.output());
    assert.ok(
      events.some(({ type }) => type === "failed"),
      "the disk was never full",
    );
    await using bus = createBus({ adapter: sqlite({ path: place.path }) });
    const received = new Set<string>();
    await bus.consume(items, { group: "g", once: false }, ({ id }) => void received.add(id));
    await eventually(() =>
      assert.deepEqual(
        accepted.filter((id) => !received.has(id)),
        [],
      ),
    );
    await bus.publish(items, { id: "after" });
    await eventually(() => assert.ok(received.has("after")));
  }, 120_000);
});

it("sends what was prepared if and only if its work was done, whenever its senders were killed", async () => {
  await using place = await openPlace();
  const of = (type: string): string[] =>
    place.events().flatMap((event) => (event.type === type && event.id !== undefined ? [event.id] : []));
  for (const [round, name] of ["p", "q", "r", "s", "t"].entries()) {
    const child = place.start("prepare", { name });
    await eventually(() =>
      assert.ok(of("accepted").filter((id) => id.startsWith(name)).length > 10 + round, child.output()),
    );
    await child.kill();
  }
  const done = new Set(of("done"));

  // A minute later, as far as this process knows: what nobody has decided is due, and the senders' leases have run out.
  const runtime = { ...nodeRuntime, now: () => nodeRuntime.now() + 60_000 };
  await using bus = createBus({ adapter: sqlite({ path: place.path }), runtime });
  const undecided = await bus.undecided(items).list();
  const received: string[] = [];
  await bus.consume(items, { group: "g" }, ({ id }) => void received.push(id));
  bus.checkBack(items, ({ id }) => (done.has(id) ? "commit" : "rollback"));
  await eventually(async () => {
    assert.deepEqual(received.toSorted(), [...done].toSorted());
    assert.deepEqual(await bus.undecided(items).list(), []);
  });

  assert.ok(undecided.length > 0, "nobody was killed between preparing and deciding");
}, 60_000);
