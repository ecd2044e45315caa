/** S: closing finishes what runs, gives back the rest, and leaves nothing behind. */
import assert from "node:assert/strict";
import { eventually } from "../eventually.ts";
import { type Scenario, scenario } from "./scenario.ts";

export const shutdown: readonly Scenario[] = [
  scenario(
    "S1",
    "close lets running handlers finish, settles what they did, and takes nothing new",
    async (world) => {
      const topic = world.topic<number>();
      const first = await world.bus();
      let finish = (): void => undefined;
      const held = new Promise<void>((resolve) => (finish = resolve));
      const before = await world.consume(
        first,
        topic,
        { group: "g", concurrency: 2, prefetch: 2 },
        () => held,
      );
      await first.publishAll(topic, [1, 2, 3, 4]);
      await before.waitFor(2);

      const closed = first.close();
      finish();
      await closed;
      assert.equal(before.received.length, 2);
      const handled = before.received.map(({ payload }) => payload);

      const second = await world.bus();
      const after = await world.consume(second, topic, { group: "g" });
      await after.waitFor(2);
      await second.publish(topic, 5);
      await after.waitFor(3);
      const all = [...handled, ...after.received.map(({ payload }) => payload)];
      assert.deepEqual(
        all.toSorted((a, b) => a - b),
        [1, 2, 3, 4, 5],
      );
    },
  ),

  scenario(
    "S2",
    "when the time to drain is over handlers are aborted and their messages come again, uncounted",
    async (world) => {
      const topic = world.topic<string>();
      const first = await world.bus();
      let reason: unknown;
      const before = await world.consume(
        first,
        topic,
        { group: "g", lease: "2s" },
        (_payload, { signal }) => {
          signal.addEventListener("abort", () => (reason = signal.reason));
          return new Promise(() => undefined);
        },
      );
      await first.publish(topic, "one");
      await before.waitFor(1);

      await first.close({ timeout: 50 });

      assert.equal((reason as { code?: string } | undefined)?.code, "ERR_DRAINING");
      const second = await world.bus();
      const after = await world.consume(second, topic, { group: "g" });
      await after.waitFor(1);
      assert.equal(after.received[0]?.payload, "one");
      assert.equal(world.events.filter(({ type }) => type === "retry" || type === "deadLettered").length, 0);
    },
  ),

  scenario(
    "S3",
    "close may be called twice, at once, before anything was used, and while connecting",
    async (world) => {
      const unused = await world.bus();
      await unused.close();
      await unused.close();

      const connecting = await world.bus();
      const connected = connecting.connect().catch(() => undefined);
      await Promise.all([connecting.close(), connecting.close(), connected]);

      const used = await world.bus();
      const topic = world.topic<number>();
      await world.consume(used, topic, { group: "g" });
      await Promise.all([used.close(), used.close()]);
      await assert.rejects(used.publish(topic, 1), { code: "ERR_CLOSED" });
      await assert.rejects(
        used.consume(topic, { group: "g" }, () => undefined),
        { code: "ERR_CLOSED" },
      );
    },
  ),

  scenario("S4", "sends under way when the bus closes each get their outcome", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    await bus.declare({ groups: { g: [topic] } });

    const sends = Array.from({ length: 200 }, (_, n) => bus.publish(topic, n));
    await bus.close();

    const settled = await Promise.allSettled(sends);
    const rejected = settled.filter(({ status }) => status === "rejected");
    assert.deepEqual(rejected, [], "a send that was accepted by the bus before close was not sent");
  }),

  scenario("S5", "after close nothing keeps the process alive", async (world) => {
    const child = world.child("publish-consume-close");
    assert.equal((await child.ended).code, 0, child.output());
    assert.match(child.output(), /handled 10/u);
  }),

  scenario("S6", "twenty times started, used and closed, nothing has piled up", async (world) => {
    const topic = world.topic<number>();
    const cycle = async (n: number): Promise<void> => {
      const bus = await world.bus();
      const recorder = await world.consume(bus, topic, { group: "g" });
      await bus.publish(topic, n);
      await recorder.waitFor(1);
      await bus.close();
    };
    await cycle(0);
    const open = (): number => process.getActiveResourcesInfo().length;
    const before = open();

    for (let n = 1; n <= 20; n += 1) await cycle(n);

    await eventually(() => assert.ok(open() <= before + 3, `${before} open handles became ${open()}`));
  }),
];
