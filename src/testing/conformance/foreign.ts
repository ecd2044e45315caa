/** I7, Z2, Z5, Z6: messages of producers that do not use the library, and of those that mean harm. */
import assert from "node:assert/strict";
import { brotliCompressSync, gzipSync } from "node:zlib";
import type { ConsumeOptions } from "../../consume.ts";
import { header } from "../../headers.ts";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { group, lettersOf } from "./letters.ts";
import { type ForeignMessage, type Scenario, scenario } from "./scenario.ts";

const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const retry = { maxAttempts: 3, backoff: constant(20) };

/** Headers that somebody forges to be taken for the library's. */
const forgeries: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "less than none": { [header.failures]: "-1", [header.redeliveries]: "-1" },
  "no number": { [header.failures]: "abc", [header.notBefore]: "soon", [header.firstFailureAt]: "never" },
  "a thousand years": { [header.notBefore]: "33000000000000" },
  "other people's": {
    [header.reason]: "exhausted",
    [header.group]: "other",
    [header.attempts]: "7",
    "pr-kafka-due": "33000000000000",
  },
};

export const foreign: readonly Scenario[] = [
  scenario(
    "I7",
    "messages without an id get one of their position: each has one effect, and keeps its id through retries",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = world.topic<string>();
      await bus.declare({ groups: { [group]: [topic] } });
      const options = {
        group,
        once: "transaction",
        holdBelow: 0,
        retry,
      } as unknown as ConsumeOptions<string>;
      const recorder = await world.consume(bus, topic, options, async (payload, { attempt, tx }) => {
        await world.database.addEffect(tx, payload);
        if (attempt === 1 || payload === "bad") throw new Error("again");
      });

      await world.foreign.publish(
        topic.name,
        ['"same"', '"same"', '"bad"'].map((body) => ({ body: text(body) })),
      );
      await recorder.waitFor(2 + 2 + 3, "deliveries");
      const [letter] = await lettersOf(bus, topic, 1);
      await eventually(async () => assert.deepEqual(await world.database.effects(), ["same", "same"]));

      const attempts = Map.groupBy(recorder.received, ({ id }) => id);
      assert.deepEqual(
        [...attempts.values()].map(({ length }) => length).toSorted((a, b) => a - b),
        [2, 2, 3],
      );
      const bad = recorder.received.find(({ payload }) => payload === "bad");
      assert.deepEqual([letter?.message.id, letter?.attempts], [bad?.id, 3]);
    },
  ),

  scenario(
    "Z2",
    "a body that would unpack to far more than it is is not unpacked: it is dead-lettered as it came",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<unknown>();
      const recorder = await world.consume(bus, topic, { group });
      const zeros = Buffer.alloc(10_000_000);
      const bombs = [
        { encoding: "gzip", body: gzipSync(zeros) },
        { encoding: "br", body: brotliCompressSync(zeros) },
      ];

      await world.foreign.publish(
        topic.name,
        bombs.map(({ encoding, body }) => ({ body, headers: { "content-encoding": encoding } })),
      );
      await bus.publish(topic, "good");
      await recorder.waitFor(1);
      const letters = await lettersOf(bus, topic, bombs.length);

      assert.deepEqual(
        recorder.received.map(({ payload }) => payload),
        ["good"],
      );
      for (const [i, { encoding, body }] of bombs.entries()) {
        const letter = letters.find(({ message }) => message.headers["content-encoding"] === encoding);
        assert.equal(Buffer.compare(body, letter?.body ?? Buffer.alloc(0)), 0, `body ${i}`);
        assert.deepEqual(
          [letter?.reason, letter?.error.code, letter?.attempts],
          ["invalid", "ERR_DECODE", 1],
        );
      }
    },
  ),

  scenario(
    "Z5",
    "headers without measure stop nobody: their message is retried and dead-lettered like any other",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<string>();
      await bus.declare({ groups: { [group]: [topic] } });
      const most = world.foreign.maxHeaderBytes;
      const names = Math.min(10_000, Math.floor(most / 40));
      const hostile: ForeignMessage["headers"][] = [
        Object.fromEntries(Array.from({ length: names }, (_, i) => [`name-${i}`, "0123456789"])),
        { long: "x".repeat(Math.min(1_048_576, most - 1_000)) },
        { ["n".repeat(200)]: "x" },
        { binary: Uint8Array.of(0xff, 0x00, 0xc3, 0x28) },
        Object.fromEntries(
          ["__proto__", "constructor", "with space", "é 漢", "a:b", "x-death"].map((name) => [name, "x"]),
        ),
      ];
      const recorder = await world.consume(bus, topic, { group, holdBelow: 0, retry }, (payload) => {
        if (payload !== "good") throw new Error("always");
      });

      await world.foreign.publish(
        topic.name,
        hostile.map((headers, i) => ({ headers, body: text(`"hostile ${i}"`) })),
      );
      await world.foreign.publish(topic.name, [{ body: text('"good"') }]);
      await recorder.waitFor(hostile.length * 3 + 1, "deliveries");
      const letters = await lettersOf(bus, topic, hostile.length);

      assert.deepEqual(
        letters.map(({ message }) => String(message.payload)).toSorted(),
        hostile.map((_, i) => `hostile ${i}`),
      );
      assert.ok(letters.every(({ attempts, reason }) => attempts === 3 && reason === "exhausted"));
      assert.equal(({} as { x?: unknown }).x, undefined);
    },
  ),

  scenario(
    "Z6",
    "headers forged to be taken for ours count for nothing, or for no more than they could",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<string>();
      await bus.declare({ groups: { [group]: [topic] } });
      const recorder = await world.consume(bus, topic, { group, holdBelow: 0, retry }, () => {
        throw new Error("always");
      });
      const forged = Object.entries(forgeries);

      await world.foreign.publish(
        topic.name,
        forged.map(([what, headers]) => ({ headers, body: text(JSON.stringify(what)) })),
      );
      await world.foreign.publish(topic.name, [
        { headers: { [header.failures]: "1e9" }, body: text('"too many"') },
      ]);
      const letters = await lettersOf(bus, topic, forged.length + 1);

      for (const [what] of forged) {
        const attempts = recorder.received
          .filter(({ payload }) => payload === what)
          .map(({ attempt }) => attempt);
        assert.deepEqual(attempts, [1, 2, 3], what);
      }
      // Said to have failed so often it fails once more, is tried no more, and is kept.
      assert.equal(recorder.received.filter(({ payload }) => payload === "too many").length, 1);
      for (const { message, group: owner, topic: origin, reason } of letters)
        assert.deepEqual([origin, owner, reason], [topic.name, group, "exhausted"], String(message.payload));
    },
  ),
];
