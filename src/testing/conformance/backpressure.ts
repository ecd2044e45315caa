/** P: a consumer takes no more than it was allowed, and nothing while it is paused. */
import assert from "node:assert/strict";
import { PublishError } from "../../errors.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, scenario } from "./scenario.ts";

export const backpressure: readonly Scenario[] = [
  scenario(
    "P1",
    "with all handlers busy no more than the prefetch is taken, and that much is",
    async (world) => {
      const bus = await world.bus();
      const topic = world.topic<number>({ partitions: 1 });
      const open = Promise.withResolvers<void>();
      const options = { group: "g", concurrency: 4, prefetch: 10 };
      let most = 0;
      const recorder = await world.consume(bus, topic, options, () => {
        most = Math.max(most, recorder.consumer.health().inFlight);
        return open.promise;
      });

      await bus.publishAll(topic, [...Array(200).keys()]);
      await eventually(() =>
        assert.deepEqual([recorder.consumer.health().inFlight, recorder.received.length], [10, 4]),
      );
      open.resolve();
      await recorder.waitFor(200);

      assert.ok(most <= 10, `${most} were taken`);
    },
  ),

  scenario(
    "P2",
    "a hundred thousand messages behind a slow handler take no memory of its process",
    async (world) => {
      const bus = await world.bus({ publishTimeout: "60s" });
      const topic = world.topic<string>();
      await bus.declare({ groups: { g: [topic] } });
      const page = Array.from({ length: 5_000 }, (_, n) => `${n}`.padStart(500, "."));
      for (let sent = 0; sent < 100_000; sent += page.length) {
        const results = await bus.publishAll(topic, page);
        assert.ok(results.every(({ status }) => status === "accepted"));
      }

      const child = world.child("slow-consumer", { topic: topic.name });
      const { code } = await child.ended;

      assert.equal(code, 0, child.output());
      const mebibytes = Number(/^grew (?<mebibytes>\d+)$/mu.exec(child.output())?.groups?.["mebibytes"]);
      assert.ok(mebibytes < 64, `its memory grew by ${mebibytes} MiB`);
    },
    ({ persistent }) => (persistent ? undefined : "what waits is in the process's own memory"),
  ),

  scenario(
    "P3",
    "a producer that is faster than its broker is refused at a limit, and goes on when there is room",
    async (world) => {
      const bus = await world.bus({ maxPending: 50, publishTimeout: "60s" });
      const topic = world.topic<number>();
      const recorder = await world.consume(bus, topic, { group: "g" });
      await bus.publish(topic, -1);
      await recorder.waitFor(1);

      const heal = await world.faults.holdReplies();
      const sends = Array.from({ length: 200 }, (_, n) => bus.publish(topic, n));
      const refused = await Promise.allSettled(sends.slice(50));
      await heal();
      const sent = await Promise.all(sends.slice(0, 50));
      await bus.publish(topic, 200);
      await recorder.waitFor(52);

      for (const result of refused) {
        assert.ok(result.status === "rejected" && result.reason instanceof PublishError);
        assert.deepEqual([result.reason.code, result.reason.accepted], ["ERR_BACKLOG", "no"]);
      }
      assert.deepEqual(recorder.ids().slice(1, 51).toSorted(), sent.map(({ id }) => id).toSorted());
    },
  ),

  scenario("P5", "a paused consumer gets nothing, and what came meanwhile when it resumes", async (world) => {
    const bus = await world.bus();
    const topic = world.topic<number>();
    const paused = await world.consume(bus, topic, { group: "paused" });
    const other = await world.consume(bus, topic, { group: "other" });
    await bus.publish(topic, 0);
    await Promise.all([paused.waitFor(1), other.waitFor(1)]);

    paused.consumer.pause();
    await bus.publishAll(
      topic,
      Array.from({ length: 50 }, (_, i) => i + 1),
    );
    await other.waitFor(51);
    assert.equal(paused.received.length, 1);
    paused.consumer.resume();

    await paused.waitFor(51);
    assert.equal(paused.received.length, 51);
  }),
];
