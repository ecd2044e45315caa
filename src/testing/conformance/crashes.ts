/**
 * C: a process, or the broker, is killed at the worst moment, and nothing is lost and nothing done twice. What is killed is a
 * process of its own on the same broker and database; who comes after it is here.
 */
import assert from "node:assert/strict";
import type { Bus } from "../../bus.ts";
import { nodeRuntime } from "../../clock.ts";
import { NonRetryableError } from "../../errors.ts";
import type { Topic } from "../../topic.ts";
import { inboxScope } from "../../work.ts";
import { type ConsumeCrashOptions, addEffect, consumeOptions } from "../crash-programs.ts";
import { eventually } from "../eventually.ts";
import { type Failpoint, type Point, reachedText } from "../failpoints.ts";
import { publishUnderFaults } from "./reconnect.ts";
import { type Child, type Scenario, type World, scenario } from "./scenario.ts";

type Texts = Topic<string, string>;

const group = "g";
/** Sent after all others. */
const fence = "fence";
const messages = Array.from({ length: 20 }, (_, n) => `message-${n}`);
const unsupported: Scenario["unsupported"] = ({ persistent }) =>
  persistent ? undefined : "nothing outlives the process";

/** What a killed process held comes again when its lease, its session or its heartbeats have run out. */
const within = <T>(check: () => T | Promise<T>): Promise<T> => eventually(check, 60_000);

/** Messages that wait for the first consumer of their topic. */
async function publishWaiting(world: World, bus: Bus, payloads = messages): Promise<Texts> {
  const topic = world.topic<string>();
  await bus.declare({ groups: { [group]: [topic] } });
  await Promise.all(payloads.map((payload) => bus.publish(topic, payload, { id: payload })));
  return topic;
}

/** Resolves when the child has come to its failpoint. */
async function reached(child: Child): Promise<void> {
  let gone = false;
  void child.ended.then(() => (gone = true));
  await within(() => {
    assert.ok(gone || child.output().includes(reachedText), `not at its failpoint: ${child.output()}`);
  });
  assert.match(child.output(), new RegExp(reachedText, "u"));
}

/** Runs a program until it kills itself. */
async function crash(
  world: World,
  program: string,
  topic: Texts,
  failpoint: Failpoint,
  options: Omit<ConsumeCrashOptions, "topic" | "failpoint"> = {},
): Promise<void> {
  const child = world.child(program, { topic: topic.name, failpoint, ...options });
  await reached(child);
  assert.equal((await child.ended).signal, "SIGKILL", child.output());
}

/** Whoever comes after the one that was killed. */
function succeed(world: World, bus: Bus, topic: Texts): ReturnType<typeof world.consume<string>> {
  return world.consume(bus, topic, consumeOptions(), addEffect(world.database));
}

/** Each payload has its one effect, and still has when everything that was to come again has come. */
async function assertEffects(world: World, bus: Bus, topic: Texts, payloads = messages): Promise<void> {
  const ended = async (): Promise<string[]> => (await world.database.effects()).toSorted();
  await within(async () => assert.ok((await ended()).length >= payloads.length, "some are lost"));
  await bus.publish(topic, fence, { delay: 500 });
  await within(async () => assert.ok((await ended()).includes(fence)));
  assert.deepEqual(await ended(), [fence, ...payloads].toSorted());
}

const count = (world: World, type: string): number =>
  world.events.filter((event) => event.type === type).length;

async function deadIds(bus: Bus, topic: Texts): Promise<string[]> {
  const letters = await Array.fromAsync(bus.deadLetters(topic, { group }).list());
  return letters.map(({ message }) => message.id);
}

/** A consumer stands still past its lease at `point`, another takes over, and then it goes on. */
async function stopAndGoOn(world: World, point: Point): Promise<void> {
  const bus = await world.bus({ store: true });
  const topic = await publishWaiting(world, bus);
  const failpoint: Failpoint = { at: point, nth: 3, signal: "SIGSTOP" };
  // One message at a time: an open transaction that stands still keeps everybody from the database.
  const child = world.child("consume", { topic: topic.name, failpoint, prefetch: 1 });
  await reached(child);
  const successor = await succeed(world, bus, topic);
  const effects = async (): Promise<string[]> => (await world.database.effects()).toSorted();
  await within(async () => assert.ok((await effects()).length >= messages.length, "some are lost"));

  child.resume();
  await successor.consumer.close();
  // What it still wanted of the others it has done, or not, when it has handled this one.
  const { id } = await bus.publish(topic, fence, { delay: 500 });
  await within(() => assert.match(child.output(), new RegExp(`handled ${id}`, "u")));

  assert.deepEqual(await effects(), [fence, ...messages].toSorted());
}

export const crashes: readonly Scenario[] = [
  scenario(
    "C1",
    "what a consumer had received but not begun when it was killed is handled by the next, with at most one attempt counted",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = await publishWaiting(world, bus);

      await crash(world, "consume", topic, { at: "deliver", nth: 5 });
      const { received } = await succeed(world, bus, topic);

      await assertEffects(world, bus, topic);
      const attempts = received.map(({ attempt }) => attempt);
      assert.ok(Math.max(...attempts) <= 2, `attempts ${attempts.join()}`);
    },
    unsupported,
  ),

  scenario(
    "C2",
    "a consumer killed between a handler's effect and its commit leaves nothing of it, and the next one has the effect",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = await publishWaiting(world, bus);

      await crash(world, "consume", topic, { at: "handle", nth: 1 });
      assert.deepEqual(await world.database.effects(), []);
      await succeed(world, bus, topic);

      await assertEffects(world, bus, topic);
    },
    unsupported,
  ),

  scenario(
    "C3",
    "what a consumer had committed but not acknowledged when it was killed is recognised as a duplicate",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = await publishWaiting(world, bus);

      await crash(world, "consume", topic, { at: "ack", nth: 5 });
      const before = await world.database.effects();
      assert.ok(before.length > 0);
      await succeed(world, bus, topic);

      await assertEffects(world, bus, topic);
      await within(() => assert.ok(count(world, "duplicate") > 0));
      assert.ok(count(world, "handled") <= messages.length - before.length + 1);
    },
    unsupported,
  ),

  scenario(
    "C4",
    "a consumer killed between the copy for a retry and the acknowledgement loses nothing, and each message has one effect",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = await publishWaiting(world, bus);

      await crash(world, "consume", topic, { at: "deferred", nth: 5 }, { fail: "retry" });
      assert.deepEqual(await world.database.effects(), []);
      await succeed(world, bus, topic);

      await assertEffects(world, bus, topic);
      assert.deepEqual(await deadIds(bus, topic), []);
    },
    unsupported,
  ),

  scenario(
    "C5",
    "a consumer killed between a dead letter and the acknowledgement leaves one dead letter of each message, or its effect",
    async (world) => {
      const bus = await world.bus({ store: true });
      const [written, relayed] = [await publishWaiting(world, bus), await publishWaiting(world, bus)];

      await Promise.all([
        crash(world, "consume", written, { at: "deadLettered", nth: 5 }, { fail: "dead", once: false }),
        // By the outbox, in the transaction that says so in the inbox.
        crash(world, "consume", relayed, { at: "ack", nth: 5 }, { fail: "dead" }),
      ]);
      await world.consume(bus, written, consumeOptions({ once: false }), () => {
        throw new NonRetryableError("hopeless");
      });
      await succeed(world, bus, relayed);

      await within(async () => assert.equal((await deadIds(bus, written)).length, messages.length));
      const ended = await within(async () => {
        const all = [...(await deadIds(bus, relayed)), ...(await world.database.effects())];
        assert.ok(all.length >= messages.length, `${all.length} of ${messages.length} have ended`);
        return all;
      });
      assert.deepEqual(ended.toSorted(), messages.toSorted());
      assert.deepEqual((await deadIds(bus, written)).toSorted(), messages.toSorted());
    },
    unsupported,
  ),

  scenario(
    "C6",
    "relays killed before they published and before they removed what they had lose no row, and send none more than once again",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = await publishWaiting(world, bus, []);
      const transaction = await world.database.begin();
      await bus.outbox(transaction.handle).publishAll(topic, messages);
      await transaction.commit();

      const other = await world.bus();
      const deliveries = await world.consume(other, topic, { group: "watch", once: false });
      await crash(world, "relay", topic, { at: "fetched", nth: 1 });
      await crash(world, "relay", topic, { at: "relayed", nth: 1 });
      await succeed(world, bus, topic);

      await assertEffects(world, bus, topic);
      const copies = (payload: string): number =>
        deliveries.received.filter((one) => one.payload === payload).length;
      assert.ok(messages.every((payload) => copies(payload) <= 2));
    },
    unsupported,
  ),

  scenario(
    "C7",
    "while the broker is killed three times under load, each of six hundred messages has one effect",
    (world) =>
      publishUnderFaults(world, {
        count: 600,
        shares: [1 / 4, 1 / 2, 3 / 4],
        effects: true,
        disturb: () => world.faults.restartBroker(),
      }),
    ({ server }) => (server ? undefined : "there is no server to kill"),
  ),

  scenario(
    "C8",
    "a consumer that stood still while another took over does no harm when it goes on",
    async (world) => {
      await stopAndGoOn(world, "deliver");
      await world.database.reset();
      await stopAndGoOn(world, "ack");
    },
    unsupported,
  ),

  scenario(
    "I4",
    "after kills around the commit every effect has its inbox entry, and every entry its effect",
    async (world) => {
      const bus = await world.bus({ store: true });
      const kills: readonly Failpoint[] = [
        { at: "handle", nth: 7 },
        { at: "commit", nth: 1 },
        { at: "commit", nth: 7 },
        { at: "ack", nth: 7 },
      ];
      const payloads = kills.map((_, i) => messages.map((text) => `${text} of ${i}`));
      const topics = await Promise.all(payloads.map((texts) => publishWaiting(world, bus, texts)));
      await Promise.all(kills.map((kill, i) => crash(world, "consume", topics[i] as Texts, kill)));

      const store = await world.database.store();
      await store.connect({ runtime: nodeRuntime, emit: () => undefined });
      const entered = async (): Promise<string[]> => {
        const found = topics.flatMap((topic, i) =>
          (payloads[i] ?? []).map(async (key) => {
            const scope = inboxScope(topic.name, group);
            return (await store.inbox.findResult({ scope, key, redrives: 0 })) === undefined ? [] : [key];
          }),
        );
        return (await Promise.all(found)).flat().toSorted();
      };
      const effects = async (): Promise<string[]> => (await world.database.effects()).toSorted();
      assert.ok((await effects()).length > 0);
      assert.deepEqual(await effects(), await entered());
      for (const topic of topics) await succeed(world, bus, topic);
      const all = payloads.flat().toSorted();
      await within(async () => assert.ok((await effects()).length >= all.length, "some are lost"));
      assert.deepEqual(await effects(), all);
      assert.deepEqual(await entered(), all);
      await store.close();
    },
    unsupported,
  ),

  scenario(
    "X6",
    "redriving that was killed half-way and is run again loses nothing, and each message has one effect",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = await publishWaiting(world, bus);
      await world.consume(bus, topic, consumeOptions(), (payload, context) => {
        if (payload !== fence && context.message.redrives === 0) throw new NonRetryableError("not fixed yet");
        return addEffect(world.database)(payload, context);
      });
      await within(async () => assert.equal((await deadIds(bus, topic)).length, messages.length));

      await crash(world, "redrive", topic, { at: "redriven", nth: 8 });
      await within(async () => {
        await bus.deadLetters(topic, { group }).redrive();
        assert.deepEqual(await deadIds(bus, topic), []);
      });

      await assertEffects(world, bus, topic);
    },
    unsupported,
  ),
];
