/** B: what waits in the outbox leaves, whatever else is in it or done to the tables beside it. */
import assert from "node:assert/strict";
import { nodeRuntime } from "../../clock.ts";
import { headerMap } from "../../headers.ts";
import type { OutboxEntry } from "../../store.ts";
import { eventually } from "../eventually.ts";
import { type Scenario, scenario } from "./scenario.ts";

export const relay: readonly Scenario[] = [
  scenario(
    "B7",
    "a row that the broker can never take is put aside with its reason, and all others leave",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = world.topic<string>();
      const recorder = await world.consume(bus, topic, { group: "g" });
      const store = await world.database.store();
      await store.connect({ runtime: nodeRuntime, emit: () => undefined });
      const before = await store.outbox.backlog();
      // As a bus on a broker that takes more has left it.
      const tooLarge: OutboxEntry = {
        destination: { topic: { name: topic.name, partitions: 1, keyed: false } },
        message: {
          attributes: headerMap({ specversion: "1.0", id: "too-large", source: "s", type: topic.name }),
          headers: headerMap(),
          key: undefined,
          body: Buffer.alloc(world.capabilities.maxBytes + 1, "x"),
        },
        durability: "replicated",
      };

      const transaction = await world.database.begin();
      await bus.outbox(transaction.handle).publish(topic, "before");
      await store.outbox.append(transaction.handle, [tooLarge]);
      await bus.outbox(transaction.handle).publish(topic, "behind");
      await transaction.commit();
      bus.relay();
      await recorder.waitFor(2);

      const parked = await eventually(() => {
        const found = world.events.filter((event) => event.type === "relayParked");
        assert.equal(found.length, 1);
        return found[0];
      });
      assert.deepEqual([parked?.messageId, parked?.error.code], ["too-large", "ERR_TOO_LARGE"]);
      await eventually(async () => {
        const { depth, parked: aside } = await store.outbox.backlog();
        assert.deepEqual([depth, aside], [0, before.parked + 1]);
      });
      await store.close();
    },
    ({ maxBytes }, store) =>
      store.name === "mysql" && maxBytes > 16_000_000
        ? "the database takes no row that is too large for it"
        : undefined,
  ),

  scenario(
    "B8",
    "clearing out the inbox while the outbox works takes nothing that has not left",
    async (world) => {
      const bus = await world.bus({ store: true });
      const topic = world.topic<number>();
      const recorder = await world.consume(bus, topic, { group: "g", once: false, concurrency: 100 });
      const store = await world.database.store();
      await store.connect({ runtime: nodeRuntime, emit: () => undefined });
      const before = await store.outbox.backlog();
      bus.relay();
      const rows = 1_000;

      for (let n = 0; n < rows; n += 100) {
        const transaction = await world.database.begin();
        await bus.outbox(transaction.handle).publishAll(
          topic,
          Array.from({ length: 100 }, (_, i) => n + i),
        );
        await transaction.commit();
        await store.inbox.purge(0, 1_000);
      }
      await recorder.waitFor(rows);

      assert.equal(new Set(recorder.received.map(({ payload }) => payload)).size, rows);
      await eventually(async () => {
        const { depth, parked } = await store.outbox.backlog();
        assert.deepEqual([depth, parked], [0, before.parked]);
      });
      await store.close();
    },
  ),
];
