/** Consuming: what is handed over, what is settled, and what a process that dies leaves behind. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { it, onTestFinished } from "vitest";
import { decodeNotes } from "../../../adapters/kafka/commit-metadata.ts";
import type { RawDelivery, SettleResult } from "../../../src/spi.ts";
import {
  acking,
  committedOf,
  declared,
  idOf,
  openAdapter,
  openBus,
  outgoing,
  rawAdmin,
  rawProducer,
  recordsOf,
  server,
  take,
  unique,
} from "./bench.ts";

/** The program of `child.ts`, and the lines it prints. */
function startChild(...args: readonly string[]): { readonly child: ChildProcess; readonly lines: string[] } {
  const script = new URL("child.ts", import.meta.url).pathname;
  const child = spawn(process.execPath, ["--conditions=postrider-source", script, server.url, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  const lines: string[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => lines.push(line));
  return { child, lines };
}

const ended = (child: ChildProcess): Promise<unknown> =>
  new Promise((resolve) => child.once("exit", resolve));

export function consuming(): void {
  for (const [when, noted] of [
    ["at work", 1],
    ["when all but one is done", 4_999],
  ] as const) {
    it(`commits nothing that is under way, and after a kill -9 ${when} repeats what no commit names, and only that`, async () => {
      const { bus } = openBus();
      const topic = defineTopic<number>(unique("topic"), { partitions: 1 });
      const numbers = [...Array(5_000).keys()];
      const results = await bus.publishAll(topic, numbers);
      assert.ok(results.every(({ status }) => status === "accepted"));
      const settled = async (): Promise<ReadonlySet<number>> => {
        const [committed] = await committedOf("g", topic.name);
        if (committed === undefined || committed.offset < 0) return new Set();
        assert.equal(committed.offset, 0, "a commit has passed a record under way");
        return decodeNotes(0, committed.metadata).settled;
      };

      const { child } = startChild(topic.name, "g", "hold", "0");
      await eventually(async () => assert.ok((await settled()).size >= noted), 60_000);
      const gone = ended(child);
      child.kill("SIGKILL");
      await gone;
      // What it had sent may be on its way until the group has given it up.
      const admin = await rawAdmin();
      await eventually(async () => {
        assert.equal((await admin.describeGroups(["g"])).groups[0]?.state, "Empty");
      });
      const named = await settled();

      const given: [number, number][] = [];
      await bus.consume(
        topic,
        { group: "g", lease: "1s" },
        (n, { attempt }) => void given.push([n, attempt]),
      );
      await bus.publish(topic, -1);
      await eventually(() => assert.ok(given.some(([n]) => n === -1)), 30_000);

      const repeated = numbers.filter((n) => !named.has(n));
      assert.deepEqual(given, [...repeated.map((n) => [n, n === 0 ? 2 : 1]), [-1, 1]]);
    }, 120_000);
  }

  it("finds the message that kills its process, among others, and dead-letters it alone", async () => {
    const { bus } = openBus();
    const topic = defineTopic<number>(unique("topic"), { partitions: 1 });
    await bus.publishAll(topic, [...Array(12).keys()]);

    const attempts: number[] = [];
    let dead: string | undefined;
    for (let life = 0; life < 60 && dead === undefined; life += 1) {
      const { child, lines } = startChild(topic.name, "g", "die", "5");
      const exit = ended(child);
      const last = (): string | undefined => lines.find((line) => line.startsWith("dead"));
      await Promise.race([exit, eventually(() => assert.ok(last() !== undefined), 30_000)]);
      const given = lines.find((line) => line.startsWith("given 5 "));
      if (given !== undefined) attempts.push(Number(given.split(" ")[2]));
      dead = last();
      child.kill("SIGKILL");
      await exit;
    }

    assert.match(dead ?? "", /crash-loop/u);
    const letters = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
    assert.deepEqual(
      letters.map((letter) => letter.message.payload),
      [5],
      "an innocent one was dead-lettered",
    );
    // At least one death in a row is seen as such; the number rises by one with each.
    assert.ok((attempts.at(-1) ?? 0) >= 20, attempts.join());
    const left: number[] = [];
    await bus.consume(topic, { group: "g", lease: "1s" }, (n) => void left.push(n));
    await bus.publish(topic, 99);
    await eventually(() => assert.ok(left.includes(99)), 30_000);
    assert.ok(!left.includes(5));
  }, 300_000);

  it("keeps its group, and what is under way, over a kill -9 and restart of the broker", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 2, ["g"]);
    const taker = await take(adapter, topic);
    await adapter.publish("abcd".split("").map((id) => outgoing(topic, id)));
    await eventually(() => assert.equal(taker.taken.length, 4));

    onTestFinished(() => server.up());
    await server.kill();
    await server.start();
    await eventually(async () => {
      const [result] = await adapter.publish([outgoing(topic, "e")]);
      assert.equal(result?.status, "accepted");
    });
    await eventually(() => assert.ok(taker.ids().includes("e")));

    assert.deepEqual(taker.lost, []);
    const results = await taker.subscription.ack(taker.taken);
    assert.ok(results.every(({ status }) => status === "done"));
    assert.equal(taker.ids().filter((id) => id !== "e").length, 4, "what was under way came again");
    assert.equal(taker.subscription.health().consuming, true);
  }, 60_000);

  it("says that it does not consume while its topic is gone, and consumes when it is back", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 2, ["g"]);
    const taker = await take(adapter, topic, {}, acking);
    await adapter.publish("abc".split("").map((id) => outgoing(topic, id)));
    await eventually(() => assert.equal(taker.taken.length, 3));

    const admin = await rawAdmin();
    await admin.deleteTopics({ topics: [topic.name] });
    await eventually(() => assert.equal(taker.subscription.health().consuming, false), 60_000);
    assert.equal(taker.subscription.health().error?.code, "ERR_DESTINATION");
    await adapter.declare({ topics: [topic], groups: [] });
    await eventually(async () => {
      const [result] = await adapter.publish([outgoing(topic, "d")]);
      assert.equal(result?.status, "accepted");
    });

    await eventually(() => assert.ok(taker.ids().includes("d")), 60_000);
    assert.equal(taker.subscription.health().consuming, true);
    assert.deepEqual(taker.ids().toSorted(), "abcd".split(""));
  }, 150_000);

  it("begins anew in a topic that was made anew at once, and commits nothing of the old one", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const taker = await take(adapter, topic, {}, acking);
    await adapter.publish(Array.from({ length: 50 }, (_, n) => outgoing(topic, `old-${n}`)));
    await eventually(() => assert.equal(taker.taken.length, 50));

    const admin = await rawAdmin();
    await admin.deleteTopics({ topics: [topic.name] });
    await adapter.declare({ topics: [topic], groups: [] });
    await eventually(async () => {
      const results = await adapter.publish(
        Array.from({ length: 10 }, (_, n) => outgoing(topic, `new-${n}`)),
      );
      assert.ok(results.every(({ status }) => status === "accepted"));
    });

    await eventually(() => {
      for (let n = 0; n < 10; n += 1) assert.ok(taker.ids().includes(`new-${n}`), `new-${n} did not come`);
    }, 60_000);
    await eventually(async () => assert.ok(((await committedOf("g", topic.name))[0]?.offset ?? -1) >= 10));
    assert.ok(
      ((await committedOf("g", topic.name))[0]?.offset ?? 0) < 50,
      "an offset of the old topic was committed",
    );
  }, 120_000);

  it("mends its own topics when somebody has deleted them", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const taker = await take(adapter, topic);
    const admin = await rawAdmin();
    const own = (await admin.listTopics()).filter((name) => name.startsWith(`${topic.name}--g--`));
    assert.equal(own.length, 3);
    await admin.deleteTopics({ topics: own });

    await adapter.publish([outgoing(topic, "a"), outgoing(topic, "b")]);
    const settle = (id: string, how: (delivery: RawDelivery) => Promise<SettleResult>): Promise<void> =>
      eventually(async () => {
        // It may come once more with the consumer that finds its topics again: then the first is stale.
        const delivery = taker.taken.findLast((one) => idOf(one) === id) ?? assert.fail(`no ${id} yet`);
        assert.equal((await how(delivery)).status, "done");
      }, 60_000);
    await settle("a", (delivery) => taker.subscription.deadLetter(delivery, {}));
    await settle("b", (delivery) => taker.subscription.defer(delivery, 0, { "pr-failures": "1" }));
    await eventually(() => {
      assert.ok(taker.taken.some((one) => one.message.headers["pr-failures"] === "1"));
    }, 60_000);
  }, 200_000);

  it("hands over no more than its window, whatever waits", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 4, ["g"]);
    await adapter.publish(Array.from({ length: 1_000 }, (_, n) => outgoing(topic, String(n))));
    let out = 0;
    let most = 0;
    const taker = await take(adapter, topic, { prefetch: 7 }, async (delivery, { subscription }) => {
      most = Math.max(most, (out += 1));
      await new Promise((resolve) => setTimeout(resolve, 1));
      out -= 1;
      await subscription.ack([delivery]);
    });

    await eventually(() => assert.equal(taker.taken.length, 1_000), 30_000);

    assert.equal(most, 7);
  }, 60_000);

  it("hands over nothing while it is paused, and nothing after it was stopped", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g", "other"]);
    const taker = await take(adapter, topic, {}, acking);
    const other = await take(adapter, topic, { group: "other" }, acking);
    taker.subscription.pause();
    await adapter.publish([outgoing(topic, "a")]);
    await eventually(() => assert.equal(other.taken.length, 1));
    assert.equal(taker.taken.length, 0);
    taker.subscription.resume();
    await eventually(() => assert.equal(taker.taken.length, 1));

    await taker.subscription.stop();
    await adapter.publish([outgoing(topic, "b")]);
    await eventually(() => assert.equal(other.taken.length, 2));

    assert.equal(taker.taken.length, 1);
    assert.equal(taker.subscription.health().consuming, false);
  });

  it("hands a released message over again, as if it never had been", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const taker = await take(adapter, topic);
    await adapter.publish("ab".split("").map((id) => outgoing(topic, id)));
    await eventually(() => assert.equal(taker.taken.length, 2));

    const [first] = taker.taken;
    assert.ok(first !== undefined);
    await taker.subscription.release([first]);
    await eventually(() => assert.deepEqual(taker.ids(), ["a", "b", "a"]));

    assert.equal(taker.taken[2]?.redeliveries, 0);
    assert.equal((await taker.subscription.ack([first]))[0]?.status, "stale", "the first hand-over is over");
    assert.equal((await taker.subscription.extend([first]))[0]?.status, "stale");
    const results = await taker.subscription.ack(taker.taken.slice(1));
    assert.deepEqual(
      results.map(({ status }) => status),
      ["done", "done"],
    );
  });

  it("delivers what foreign producers send, and gives it back to the byte", async () => {
    const { adapter } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const producer = await rawProducer();
    const binary = Buffer.of(0xc3, 0x28, 0x00, 0xff);
    await producer.send({
      topic: topic.name,
      messages: [
        { value: null },
        {
          value: "plain",
          key: binary,
          headers: { constructor: "c", twice: ["1", binary], empty: "", bin: binary },
        },
        { value: Buffer.alloc(0), key: "" },
      ],
    });
    const taker = await take(adapter, topic);
    await eventually(() => assert.equal(taker.taken.length, 3));

    const [tombstone, plain, empty] = taker.taken.map((delivery) => delivery.message);
    assert.equal(tombstone?.body, null);
    assert.deepEqual(
      { ...plain?.headers },
      { constructor: "c", twice: binary.toString("base64"), empty: "", bin: binary.toString("base64") },
    );
    assert.deepEqual({ ...plain?.attributes }, {});
    assert.equal(plain?.key, binary.toString("base64"));
    assert.deepEqual([empty?.key, empty?.body?.length], ["", 0]);
    assert.equal(new Set(taker.taken.map(({ position }) => position)).size, 3);

    for (const delivery of taker.taken.slice(0, 3)) {
      const patch = { "pr-failures": "1", "pr-position": delivery.position };
      assert.equal((await taker.subscription.defer(delivery, 0, patch)).status, "done");
    }
    await eventually(() => assert.equal(taker.taken.length, 6));
    const copies = await recordsOf(`${topic.name}--g--retry-10s`);
    const copy = copies.find(({ value }) => value?.toString() === "plain");
    assert.deepEqual(copy?.key, binary);
    assert.deepEqual(copy?.headers?.["bin"], binary);
    assert.deepEqual([copy?.headers?.["twice"]].flat().map(String), ["1", String(binary)]);
    const again = taker.taken.slice(3).map((delivery) => delivery.message);
    assert.deepEqual(
      again.map(({ body }) => body === null),
      [true, false, false],
    );
    assert.ok(again.every(({ headers }) => headers["pr-failures"] === "1"));
  });

  it("passes over what a transaction of a foreign producer took back", async () => {
    const { adapter, events } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    const taker = await take(adapter, topic, {}, acking);
    const producer = await rawProducer({ transactionalId: unique("tx"), maxInFlightRequests: 1 });
    for (const id of ["a", "b"]) {
      const transaction = await producer.transaction();
      await transaction.send({ topic: topic.name, messages: [{ value: "x", headers: { ce_id: "gone" } }] });
      await transaction.abort();
      await eventually(async () =>
        assert.equal((await adapter.publish([outgoing(topic, id)]))[0]?.status, "accepted"),
      );
      await eventually(() => assert.equal(taker.ids().at(-1), id));
    }

    // Each took two places in the log: its message, and that it was taken back.
    await eventually(async () => assert.equal((await committedOf("g", topic.name))[0]?.offset, 6));
    assert.deepEqual(taker.ids(), ["a", "b"]);
    assert.ok(!events.some(({ type }) => type === "lost"));
  }, 60_000);

  it("begins a new group at the first message that is kept, and tells of those that were removed unread", async () => {
    const { adapter, events } = await openAdapter();
    const topic = await declared(adapter, 1, ["g"]);
    await adapter.publish(Array.from({ length: 20 }, (_, n) => outgoing(topic, String(n))));
    const admin = await rawAdmin();
    await admin.fetchTopicOffsets(topic.name);
    await admin.deleteTopicRecords({ topic: topic.name, partitions: [{ partition: 0, offset: "15" }] });

    const taker = await take(adapter, topic, {}, acking);
    await eventually(() => assert.deepEqual(taker.ids(), ["15", "16", "17", "18", "19"]));

    await eventually(() => {
      const lost = events.find((event) => event.type === "lost");
      assert.deepEqual([lost?.topic, lost?.group, lost?.count], [topic.name, "g", 15]);
    });
    const other = await take(adapter, topic, { group: "new" }, acking);
    await eventually(() => assert.equal(other.taken.length, 5));
    assert.equal(events.filter((event) => event.type === "lost").length, 1, "a new group has lost nothing");
  }, 60_000);
}
