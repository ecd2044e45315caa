/** D: what is sent arrives, as it was sent, and a send says the truth about itself. */
import assert from "node:assert/strict";
import { nodeRuntime } from "../../clock.ts";
import { PublishError } from "../../errors.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, type World, scenario } from "./scenario.ts";

const group = "g";

interface Numbered {
  readonly n: number;
}

const numbers = (count: number): Numbered[] => Array.from({ length: count }, (_, n) => ({ n }));

/** Sends one body of bytes and gives back what arrived. */
async function roundTrip(world: World, body: Uint8Array): Promise<Uint8Array> {
  const bus = await world.bus();
  const topic = world.topic<Uint8Array>({ codec: "bytes" });
  const recorder = await world.consume(bus, topic, { group });
  await bus.publish(topic, body);
  await recorder.waitFor(1);
  return recorder.received[0]?.payload as Uint8Array;
}

export const delivery: readonly Scenario[] = [
  scenario("D1", "a message arrives once, as it was sent", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<Numbered>({ key: ({ n }) => `key-${n}` });
    const recorder = await world.consume(bus, topic, { group });
    const before = nodeRuntime.now();

    const receipt = await bus.publish(
      topic,
      { n: 7 },
      { headers: { tenant: "acme" }, correlationId: "order-1" },
    );
    await bus.publish(topic, { n: 8 });
    await recorder.waitFor(2);

    assert.equal(recorder.received.length, 2);
    const { message } =
      recorder.received.find(({ payload }) => payload.n === 7)?.context ?? assert.fail("7 did not arrive");
    assert.deepEqual(message.payload, { n: 7 });
    assert.equal(message.id, receipt.id);
    assert.equal(message.topic, topic.name);
    assert.equal(message.key, "key-7");
    assert.equal(message.correlationId, "order-1");
    assert.equal(message.contentType, "application/json");
    assert.deepEqual({ ...message.headers }, { tenant: "acme" });
    assert.ok(Math.abs(message.time.getTime() - before) < 60_000);
  }),

  scenario("D2", "of a thousand messages all arrive and nothing else does", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<Numbered>();
    const recorder = await world.consume(bus, topic, { group });

    const results = await bus.publishAll(topic, numbers(1_000));
    await recorder.waitFor(1_000);

    const sent = results.map((result) =>
      result.status === "accepted" ? result.id : assert.fail(String(result.error)),
    );
    assert.deepEqual(recorder.ids().toSorted(), sent.toSorted());
  }),

  scenario(
    "D3",
    "a send is not confirmed before the broker has, and ends as unknown when it never does",
    async (world) => {
      const bus = await world.bus({ publishTimeout: "30s" });
      const topic = world.topic<Numbered>();
      const recorder = await world.consume(bus, topic, { group });
      await bus.publish(topic, { n: 0 });
      await recorder.waitFor(1);
      const heal = await world.faults.holdReplies();
      try {
        const error: unknown = await bus.publish(topic, { n: 1 }, { timeout: "1s" }).then(
          () => assert.fail("confirmed although the broker's answer was held back"),
          (reason: unknown) => reason,
        );
        assert.ok(error instanceof PublishError, String(error));
        assert.equal(error.code, "ERR_TIMEOUT");
        assert.equal(error.accepted, "unknown");
      } finally {
        await heal();
      }
    },
  ),

  scenario("D4", "a hundred concurrent sends of one producer are each confirmed", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<Numbered>();
    await bus.declare({ groups: { [group]: [topic] } });

    const receipts = await Promise.all(numbers(100).map((payload) => bus.publish(topic, payload)));

    assert.equal(new Set(receipts.map(({ id }) => id)).size, 100);
  }),

  scenario(
    "D5",
    "a batch gives one result per item, with the index of the one that failed",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<{ n: number; bad?: bigint }>();
      const recorder = await world.consume(bus, topic, { group });
      const payloads = numbers(500).map(({ n }) => (n === 250 ? { n, bad: 1n } : { n }));

      const results = await bus.publishAll(topic, payloads);
      await recorder.waitFor(499);

      assert.equal(results.length, 500);
      const failed = results.filter((result) => result.status !== "accepted");
      assert.deepEqual(
        failed.map(({ index, status, error }) => [index, status, error.code]),
        [[250, "rejected", "ERR_ENCODE"]],
      );
      assert.ok(!recorder.received.some(({ payload }) => payload.n === 250));
    },
  ),

  scenario("D6", "empty, one-byte and largest bodies come back exactly", async (world) => {
    const largest = Math.min(world.capabilities.maxBytes, 1_048_576);
    for (const size of [0, 1, largest]) {
      const body = Uint8Array.from({ length: size }, (_, i) => i % 251);
      assert.equal(Buffer.compare(await roundTrip(world, body), body), 0, `${size} bytes`);
    }
  }),

  scenario("D7", "every byte value comes back unchanged", async (world) => {
    const body = Uint8Array.from({ length: 256 }, (_, i) => i);
    assert.deepEqual([...(await roundTrip(world, body))], [...body]);
  }),

  scenario("D8", "unicode header values and a hundred headers come back", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<Numbered>();
    const recorder = await world.consume(bus, topic, { group });
    const headers = Object.fromEntries(
      Array.from({ length: 100 }, (_, i) => [`h${i}`, `é 漢 🚀 = : , " ' % ${i}`]),
    );

    await bus.publish(topic, { n: 1 }, { headers });
    await recorder.waitFor(1);

    assert.deepEqual({ ...recorder.received[0]?.context.message.headers }, headers);
  }),

  scenario(
    "D9",
    "a message no group can receive is rejected, never silently dropped",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<Numbered>();

      await assert.rejects(bus.publish(topic, { n: 1 }), (error: PublishError) => {
        assert.equal(error.code, "ERR_NO_ROUTE");
        assert.equal(error.accepted, "no");
        return true;
      });
      await bus.publish(topic, { n: 2 }, { requireRoute: false });
    },
    ({ retains }) => (retains ? "a topic keeps messages for its first group (D10)" : undefined),
  ),

  scenario(
    "D10",
    "messages sent before the first group exists are received",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<Numbered>();
      await bus.publishAll(topic, numbers(10));

      const recorder = await world.consume(bus, topic, { group });
      await recorder.waitFor(10);

      assert.deepEqual(
        recorder.received.map(({ payload }) => payload.n).toSorted((a, b) => a - b),
        [...Array(10).keys()],
      );
    },
    ({ retains }) => (retains ? undefined : "the broker keeps nothing for a topic without a group (D9)"),
  ),

  scenario("D11", "each of two topics gets exactly its own", async (world) => {
    const bus = await world.bus();
    const [one, two] = [world.topic<Numbered>(), world.topic<Numbered>()];
    const ofOne = await world.consume(bus, one, { group });
    const ofTwo = await world.consume(bus, two, { group });

    await Promise.all([
      bus.publishAll(one, numbers(100)),
      bus.publishAll(
        two,
        numbers(100).map(({ n }) => ({ n: n + 1_000 })),
      ),
    ]);
    await Promise.all([ofOne.waitFor(100), ofTwo.waitFor(100)]);

    assert.ok(
      ofOne.received.every(({ payload, context }) => payload.n < 1_000 && context.message.topic === one.name),
    );
    assert.ok(
      ofTwo.received.every(
        ({ payload, context }) => payload.n >= 1_000 && context.message.topic === two.name,
      ),
    );
  }),

  scenario(
    "D12",
    "what the caller changes after publish returned its promise changes nothing",
    async (world) => {
      const bus = await world.bus();
      const json = world.topic<{ n: number; list: number[] }>();
      const binary = world.topic<Uint8Array>({ codec: "bytes" });
      const ofJson = await world.consume(bus, json, { group });
      const ofBinary = await world.consume(bus, binary, { group });
      const payload = { n: 1, list: [1] };
      const headers: Record<string, string> = { a: "1" };
      const body = Uint8Array.of(1, 2, 3);

      const sends = [bus.publish(json, payload, { headers }), bus.publish(binary, body)];
      payload.n = 2;
      payload.list.push(2);
      headers["a"] = "2";
      body.fill(9);
      await Promise.all(sends);
      await Promise.all([ofJson.waitFor(1), ofBinary.waitFor(1)]);

      const received = await eventually(() => ofJson.received[0] ?? assert.fail("nothing came"));
      assert.deepEqual(received.payload, { n: 1, list: [1] });
      assert.equal(received.context.message.headers["a"], "1");
      assert.deepEqual([...(ofBinary.received[0]?.payload ?? [])], [1, 2, 3]);
    },
  ),
];
