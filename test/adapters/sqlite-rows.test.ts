/** Deliveries as rows: what a claim walks, what is kept, and order per key whatever happens. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import * as fc from "fast-check";
import { createBus, defineTopic } from "postrider";
import { sqlite } from "postrider/sqlite";
import { eventually } from "postrider/testing";
import { afterEach, beforeEach, describe, it } from "vitest";
import { type Claimed, claim, claimStatements, ripen } from "../../adapters/sqlite/claims.ts";
import { defer, end, endAsDead, release } from "../../adapters/sqlite/deliveries.ts";
import { addForTopic } from "../../adapters/sqlite/messages.ts";
import { brokerPart, migrate } from "../../adapters/sqlite/schema.ts";
import { Sql } from "../../adapters/sqlite/sql.ts";
import { groupId, topicId } from "../../adapters/sqlite/topology.ts";
import { nodeRuntime } from "../../src/clock.ts";

const topic = defineTopic<string>("notes");
let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "postrider-sqlite-"));
  path = join(folder, "bus.db");
});

afterEach(() => rm(folder, { recursive: true }));

describe("sqlite: rows", () => {
  function openTables(): { sql: Sql; topic: number; group: number } {
    const sql = new Sql(new DatabaseSync(":memory:"));
    migrate(sql, brokerPart);
    return { sql, topic: topicId(sql, "t"), group: groupId(sql, "t", "g") };
  }

  it("claims by an index, whatever the order", () => {
    const { sql, group } = openTables();
    for (const statement of Object.values(claimStatements)) {
      const plan = sql.all<{ detail: string }>(`EXPLAIN QUERY PLAN ${statement}`, group, 10, 1);
      const text = plan.map(({ detail }) => detail).join("\n");
      assert.match(
        text,
        /USING COVERING INDEX postrider_deliveries_next \(group_id=\? AND state=\? AND at=\?\)/u,
      );
      assert.doesNotMatch(text, /SCAN|TEMP B-TREE/u);
    }
  });

  it("keeps a body once for all groups, and nothing of what has ended everywhere", async () => {
    await using bus = createBus({ adapter: sqlite({ path }) });
    const handled: string[] = [];
    for (const group of ["a", "b"])
      await bus.consume(topic, { group, once: false }, (note) => void handled.push(`${group} ${note}`));
    await bus.consume(topic, { group: "bad", once: false, retry: { maxAttempts: 1 } }, () => {
      throw new Error("no");
    });
    await bus.publishAll(topic, ["one", "two"]);
    await eventually(() => assert.equal(handled.length, 4));
    const dlq = bus.deadLetters(topic, { group: "bad" });
    await eventually(async () => assert.equal((await Array.fromAsync(dlq.list())).length, 2));
    const db = new DatabaseSync(path);
    const counts = (): unknown[] =>
      ["messages", "deliveries", "dead"].map(
        (of) => db.prepare(`SELECT count(*) AS n FROM postrider_${of}`).get()?.["n"],
      );
    await eventually(() => assert.deepEqual(counts(), [2, 0, 2]));
    await dlq.discard({ where: () => true });
    assert.deepEqual(counts(), [0, 0, 0]);
    db.close();
  });

  it("forgets ids when their time is over, without keeping a long list of them", async () => {
    let ahead = 0;
    await using bus = createBus({
      adapter: sqlite({ path }),
      runtime: { ...nodeRuntime, now: () => nodeRuntime.now() + ahead },
    });
    await bus.publishAll(
      topic,
      Array.from({ length: 1_000 }, (_, n) => `${n}`),
    );
    assert.equal((await bus.publish(topic, "x", { id: "same" })).duplicate, false);
    assert.equal((await bus.publish(topic, "x", { id: "same" })).duplicate, true);
    ahead = 11 * 60_000;
    assert.equal((await bus.publish(topic, "x", { id: "same" })).duplicate, false);
    for (let i = 0; i < 5; i += 1)
      await bus.publishAll(
        topic,
        Array.from({ length: 100 }, (_, n) => `${n}`),
      );
    const db = new DatabaseSync(path);
    assert.equal(db.prepare("SELECT count(*) AS n FROM postrider_published").get()?.["n"], 501);
    db.close();
  });

  it("holds later messages of a key back for as long as an earlier one has not ended, whatever happens", () => {
    const key = fc.constantFrom(undefined, "a", "b", "c");
    type Command =
      | { readonly do: "publish"; readonly key: string | undefined; readonly delayed: boolean }
      | { readonly do: "claim"; readonly order: "none" | "key"; readonly limit: number }
      | {
          readonly do: "settle";
          readonly how: "end" | "dead" | "release" | "defer" | "defer 0";
          readonly which: number;
        }
      | { readonly do: "ripen"; readonly leasesToo: boolean };
    const command: fc.Arbitrary<Command> = fc.oneof(
      fc.record({ do: fc.constant("publish" as const), key, delayed: fc.boolean() }),
      fc.record({
        do: fc.constant("claim" as const),
        order: fc.constantFrom("none" as const, "key" as const),
        limit: fc.integer({ min: 1, max: 4 }),
      }),
      fc.record({
        do: fc.constant("settle" as const),
        how: fc.constantFrom(
          "end" as const,
          "dead" as const,
          "release" as const,
          "defer" as const,
          "defer 0" as const,
        ),
        which: fc.nat(10),
      }),
      fc.record({ do: fc.constant("ripen" as const), leasesToo: fc.boolean() }),
    );
    /** Whether a settle of this hand-over must work: nobody else was given the delivery, nor was it taken back. */
    const isOurs = (sql: Sql, lease: Claimed): boolean =>
      sql.get(
        "SELECT 1 FROM postrider_deliveries WHERE message_id = ? AND state = 3 AND epoch = ?",
        lease.message,
        lease.epoch,
      ) !== undefined;

    /** Runs one command; `held` are the deliveries handed over, late ones among them. */
    const perform = (
      { sql, topic: ofTopic, group }: ReturnType<typeof openTables>,
      held: Claimed[],
      now: number,
      one: Command,
    ): void => {
      switch (one.do) {
        case "publish":
          addForTopic(
            sql,
            ofTopic,
            { attributes: {}, headers: {}, key: one.key, body: null },
            one.delayed ? now + 15 : 0,
          );
          break;
        case "ripen":
          ripen(sql, group, now, one.leasesToo);
          break;
        case "claim": {
          const before = sql.all<{ message_id: number; key: string | null }>(
            "SELECT * FROM postrider_deliveries",
          );
          const { claimed } = claim(sql, group, one.order, one.limit, now + 25);
          for (const got of one.order === "key" ? claimed : []) {
            const earlier = before.filter((row) => row.key === got.wire.key && row.message_id < got.message);
            assert.deepEqual(earlier, [], "overtook an earlier one of its key");
          }
          held.push(...claimed);
          break;
        }
        case "settle": {
          const lease = held.splice(one.which % Math.max(1, held.length), 1)[0];
          if (lease === undefined) break;
          const ours = isOurs(sql, lease);
          const settle = {
            end: () => end(sql, lease),
            dead: () => endAsDead(sql, lease, "t", lease.wire, {}),
            release: () => release(sql, lease),
            defer: () => defer(sql, lease, now + 15, lease.wire, {}),
            "defer 0": () => defer(sql, lease, 0, lease.wire, {}),
          };
          const rows = (): unknown[] => sql.all("SELECT * FROM postrider_deliveries");
          const unsettled = rows();
          assert.equal(settle[one.how](), ours);
          if (!ours) assert.deepEqual(rows(), unsettled, "a late settle changed something");
        }
      }
    };
    fc.assert(
      fc.property(fc.array(command, { minLength: 10, maxLength: 80, size: "max" }), (commands) => {
        const tables = openTables();
        const { sql, group } = tables;
        const held: Claimed[] = [];
        let now = 1_000;
        for (const one of commands) {
          now += 10;
          perform(tables, held, now, one);
          const stuck = sql.all(
            `SELECT * FROM postrider_deliveries AS d WHERE state = 1 AND NOT EXISTS (SELECT 1 FROM postrider_deliveries AS e
             WHERE e.group_id = d.group_id AND e.key = d.key AND e.message_id < d.message_id)`,
          );
          assert.deepEqual(stuck, [], "the first of a key is held back for ever");
        }
        // Everything comes to an end, and leaves nothing behind.
        for (let rounds = 0; rounds < 100; rounds += 1) {
          now += 1_000;
          ripen(sql, group, now, true);
          for (const lease of claim(sql, group, "key", 10, now + 10).claimed) end(sql, lease);
        }
        assert.deepEqual(sql.all("SELECT * FROM postrider_deliveries"), []);
        const unused =
          "SELECT id FROM postrider_messages WHERE id NOT IN (SELECT message_id FROM postrider_dead)";
        assert.deepEqual(sql.all(unused), []);
        sql.db.close();
      }),
      { numRuns: 150 },
    );
  });
});
