/** N: after any loss of the broker, sending and consuming go on by themselves, and nothing is lost. */
import assert from "node:assert/strict";
import { MessagingError } from "../../errors.ts";
import { eventually } from "../eventually.ts";
import { createLedger } from "../ledger.ts";
import { type Scenario, type World, scenario } from "./scenario.ts";

const unsupported: Scenario["unsupported"] = ({ server }) =>
  server ? undefined : "there is no server to lose";

export interface Load {
  readonly count: number;
  /** Called when each of these shares has been published. Default: after each third. */
  readonly disturb: () => Promise<void>;
  readonly shares?: readonly number[];
  /** `true`: each message has an effect in the database, and has it once. */
  readonly effects?: boolean;
}

/** Publishes `count` messages from ten publishers at once, with faults meanwhile; none is lost. */
export async function publishUnderFaults(
  world: World,
  { count, disturb, shares = [1 / 3, 2 / 3], effects = false }: Load,
): Promise<void> {
  const bus = await world.bus({ publishTimeout: "60s", store: effects });
  const topic = world.topic<number>();
  const ledger = createLedger();
  const recorder = await world.consume(
    bus,
    topic,
    { group: "g", concurrency: 50, lease: "3s", once: effects ? "transaction" : false },
    async (_payload, { message, tx }) => {
      ledger.delivered(message.id);
      if (effects) await world.database.addEffect(tx, message.id);
    },
  );
  // A quorum queue is safe from kill -9 only about a second after it was declared.
  await bus.publish(topic, -1, { id: "warm-up", delay: "2s" }).then(() => ledger.attempted("warm-up"));
  await recorder.waitFor(1);

  let next = 0;
  const publishOne = async (): Promise<void> => {
    for (let n = next++; n < count; n = next++) {
      const id = `message-${n}`;
      ledger.attempted(id);
      await bus.publish(topic, n, { id });
      ledger.acknowledged(id);
    }
  };
  const disturbAll = async (): Promise<void> => {
    for (const share of shares) {
      await eventually(() => assert.ok(next >= count * share), 60_000);
      await disturb();
    }
  };
  await Promise.all([disturbAll(), ...Array.from({ length: 10 }, publishOne)]);
  await eventually(() => assert.deepEqual(ledger.missing(), []), 60_000);
  ledger.assertValid();
  if (!effects) return;
  const ids = ["warm-up", ...Array.from({ length: count }, (_, n) => `message-${n}`)].toSorted();
  await eventually(async () => assert.deepEqual((await world.database.effects()).toSorted(), ids), 60_000);
}

export const reconnect: readonly Scenario[] = [
  scenario(
    "N1",
    "after every connection was reset, sending and consuming go on by themselves, and nothing is lost",
    (world) => publishUnderFaults(world, { count: 2_000, disturb: () => world.faults.cutConnections() }),
    unsupported,
  ),
  scenario(
    "N2",
    "while the broker restarts twice, a thousand messages of ten publishers are all delivered",
    (world) => publishUnderFaults(world, { count: 1_000, disturb: () => world.faults.restartBroker() }),
    unsupported,
  ),
  scenario(
    "N3",
    "connections that went dead without a word are noticed and replaced, and nothing is lost",
    (world) => publishUnderFaults(world, { count: 200, disturb: () => world.faults.stallConnections() }),
    unsupported,
  ),
  scenario(
    "N4",
    "a broker that is not there yet is waited for, and said to be missing when that takes too long",
    async (world) => {
      const topic = world.topic<string>();
      const letIn = await world.faults.refuseConnections();
      try {
        const hasty = await world.bus({ connectTimeout: "1s" });
        await assert.rejects(
          hasty.connect(),
          (error) => MessagingError.is(error) && error.code === "ERR_CONNECT" && error.retryable,
        );

        const patient = await world.bus({ connectTimeout: "60s", publishTimeout: "60s" });
        const consuming = world.consume(patient, topic, { group: "g" });
        await eventually(() => assert.ok(world.events.some(({ type }) => type === "reconnecting")));
        assert.equal(patient.health().ready, false);
        await letIn();

        const recorder = await consuming;
        await patient.publish(topic, "here now");
        await recorder.waitFor(1);
        assert.equal(patient.health().ready, true);
      } finally {
        await letIn();
      }
    },
    unsupported,
  ),
  scenario(
    "N6",
    "a group that somebody has deleted on the broker is made again, its loss said, and consumes again",
    async (world) => {
      const bus = await world.bus({ publishTimeout: "60s" });
      const topic = world.topic<string>({ partitions: 1 });
      const recorder = await world.consume(bus, topic, { group: "g" });
      // So many that on a log, where a group's place is a number, what comes after the loss stays below that for a while.
      await bus.publishAll(topic, Array<string>(2_000).fill("before"));
      await recorder.waitFor(2_000);

      await world.faults.deleteGroup(topic.name, "g");
      // What is sent before the loss is noticed may be lost with the group.
      await eventually(async () => {
        await bus.publish(topic, "after");
        assert.ok(recorder.received.some(({ payload }) => payload === "after"));
      }, 60_000);

      // How much was lost only some brokers can tell.
      const said = world.events.some(({ type }) => type === "lost" || type === "warning");
      assert.ok(said, "nobody said that the group was gone");
      assert.ok(bus.health().ready);
    },
    unsupported,
  ),
  scenario(
    "N7",
    "over a slow way that breaks everything into pieces, messages arrive as they were sent",
    async (world) => {
      const topic = world.topic<string>();
      const restore = await world.faults.slowConnections();
      try {
        const bus = await world.bus({ publishTimeout: "60s" });
        const recorder = await world.consume(bus, topic, { group: "g" });

        const bodies = Array.from({ length: 200 }, (_, n) => `${n} ${"é漢🚀\u0000".repeat(n % 17)}`);
        await bus.publishAll(topic, bodies);
        await recorder.waitFor(bodies.length);

        assert.deepEqual(recorder.received.map(({ payload }) => payload).toSorted(), bodies.toSorted());
        assert.deepEqual(
          world.events.filter(({ type }) => type === "disconnected"),
          [],
        );
      } finally {
        await restore();
      }
    },
    unsupported,
  ),
  scenario(
    "N8",
    "a consumer that hears nothing any more, of a broker that seems to be there, is not ready until it does",
    async (world) => {
      const bus = await world.bus({ publishTimeout: "90s" });
      const topic = world.topic<string>();
      const recorder = await world.consume(bus, topic, { group: "g" });
      await bus.publish(topic, "before");
      await recorder.waitFor(1);
      assert.equal(bus.health().ready, true);

      const letThrough = await world.faults.holdReplies();
      try {
        await eventually(() => assert.equal(bus.health().ready, false), 60_000);
      } finally {
        await letThrough();
      }

      await bus.publish(topic, "after");
      await recorder.waitFor(2);
      await eventually(() => assert.equal(bus.health().ready, true), 60_000);
    },
    unsupported,
  ),
];
