/** Y: what is told adds up, and whoever listens cannot disturb. */
import assert from "node:assert/strict";
import { deadLetter, discard } from "../../outcome.ts";
import { constant } from "../../retry/backoff.ts";
import { eventually } from "../eventually.ts";
import { lettersOf } from "./letters.ts";
import { type Scenario, scenario } from "./scenario.ts";

const group = "g";
const retry = { maxAttempts: 3, backoff: constant(20) };

export const observing: readonly Scenario[] = [
  scenario(
    "Y2",
    "counts add up: each send is confirmed or failed, each run ends in one outcome, each message in one end",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = world.topic<{ n: number; bad?: bigint }>();
      const count = (...types: string[]): number =>
        world.events.filter(({ type }) => types.includes(type)).length;
      const recorder = await world.consume(
        bus,
        topic,
        { group, holdBelow: 0, once: "lease", retry },
        ({ n }, { attempt }) => {
          if (n % 5 === 1) return deadLetter("no");
          if (n % 5 === 2) return discard("no");
          if (n % 5 === 3) throw new Error("always");
          if (n % 5 === 4 && attempt === 1) throw new Error("once");
          return undefined;
        },
      );

      const payloads = Array.from({ length: 50 }, (_, n) => (n % 10 === 0 ? { n, bad: 1n } : { n }));
      const results = await bus.publishAll(topic, payloads);
      // Two of one key: either the broker keeps one, or the inbox runs one.
      for (const id of ["a", "b"]) await bus.publish(topic, { n: 100 }, { id, idempotencyKey: "key" });
      const confirmed = results.filter(({ status }) => status === "accepted").length + 2;
      assert.equal(count("published"), confirmed);
      assert.equal(
        confirmed + results.filter(({ status }) => status === "rejected").length,
        payloads.length + 2,
      );

      const kept = world.events.filter((event) => event.type === "published" && !event.duplicate).length;
      const ends = ["handled", "deadLettered", "discarded"];
      await eventually(() => assert.equal(count(...ends, "duplicate"), kept));
      assert.equal(count(...ends, "retry"), recorder.received.length);
      assert.deepEqual(
        ends.map((type) => count(type)),
        [16, 20, 10],
      );
    },
  ),

  scenario(
    "Y3",
    "a logger and a listener that throw, or reject, change nothing about any message",
    async (world) => {
      const fail = (): never => {
        throw new Error("the observer is broken");
      };
      const reject = (): Promise<never> => Promise.reject(new Error("the observer is broken"));
      const logger = { debug: fail, info: reject, warn: fail, error: reject };
      const bus = await world.bus({ logger, onEvent: fail });
      const topic = world.topic<number>();
      const recorder = await world.consume(
        bus,
        topic,
        { group, holdBelow: 0, retry },
        (n, { log, attempt }) => {
          log.info({ n }, "handling");
          log.warn({ n }, "handling");
          if (n === 1 && attempt === 1) throw new Error("once");
          return n === 2 ? deadLetter("no") : undefined;
        },
      );

      await bus.publishAll(topic, [0, 1, 2]);
      const handled = (count: number): Promise<void> =>
        eventually(() => {
          const ids = world.events.flatMap((event) => (event.type === "handled" ? [event.messageId] : []));
          assert.equal(new Set(ids).size, count);
        });
      await lettersOf(bus, topic, 1);
      await handled(2);
      await world.faults.cutConnections();
      await bus.publish(topic, 3);
      await handled(3);

      assert.deepEqual(
        [...new Set(recorder.received.map(({ payload }) => payload))].toSorted((a, b) => a - b),
        [0, 1, 2, 3],
      );
      assert.equal(
        recorder.received.filter(({ payload, attempt }) => payload === 1 && attempt === 2).length,
        1,
      );
    },
  ),
];
