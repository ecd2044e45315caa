/** R: relays over the store, with writers, takeovers and faults at once: nothing lost, nothing invented, order per key. */
import assert from "node:assert/strict";
import type { Adapter, PublishResult } from "../../adapter.ts";
import { adapterFromUrl } from "../../backends.ts";
import type { Bus } from "../../bus.ts";
import { nodeRuntime } from "../../clock.ts";
import { createBus } from "../../create-bus.ts";
import { PublishError, TransportError } from "../../errors.ts";
import type { BusEvent } from "../../events.ts";
import type { Store } from "../../store.ts";
import { eventually } from "../eventually.ts";
import { createFakeRuntime } from "../fake-runtime.ts";
import { type StoreScenario, type StoreWorld, needsConcurrency, storeScenario } from "./scenario.ts";
import { entry, idOf } from "./world.ts";

/** What a broker took, in order; and a process that can be stopped in the middle of anything, as `SIGSTOP` does. */
interface Broker {
  readonly accepted: { readonly id: string; readonly key: string | undefined }[];
}

interface Frozen {
  /** Resolves at once unless frozen; awaited before and after everything a process does outside of itself. */
  pass(): Promise<void>;
  freeze(): void;
  thaw(): void;
}

function freezer(): Frozen {
  let gate: PromiseWithResolvers<void> | undefined;
  return {
    pass: () => gate?.promise ?? Promise.resolve(),
    freeze: () => void (gate ??= Promise.withResolvers()),
    thaw() {
      gate?.resolve();
      gate = undefined;
    },
  };
}

/** Takes down what it accepts. `fault` decides what becomes of each message. */
function recording(broker: Broker, frozen: Frozen, fault: () => "none" | "rejected" | "unknown"): Adapter {
  const memory = adapterFromUrl("memory:");
  const error = new TransportError("ERR_BROKER", "a fault of the test");
  return {
    ...memory,
    async publish(batch) {
      await frozen.pass();
      const results = batch.map(({ message, destination, durability }): PublishResult => {
        const kind = fault();
        if (kind === "rejected") return { status: "rejected", error };
        broker.accepted.push({ id: idOf({ message, destination, durability }), key: message.key });
        return kind === "unknown" ? { status: "unknown", error } : { status: "accepted", durability };
      });
      await nodeRuntime.sleep(1);
      await frozen.pass();
      return results;
    },
  };
}

interface Process {
  readonly frozen: Frozen;
  /** How often it became the one that relays. */
  takeovers: number;
}

interface Sender {
  readonly bus: Bus;
  readonly events: readonly BusEvent[];
  /** How many messages it had at its broker at once, at most, since this was asked last. */
  takeWidest(): number;
}

async function sender(world: StoreWorld): Promise<Sender> {
  const broker = adapterFromUrl("memory:");
  const events: BusEvent[] = [];
  let widest = 0;
  const adapter: Adapter = {
    ...broker,
    publish(batch) {
      widest = Math.max(widest, batch.length);
      return Promise.resolve(
        batch.map(({ durability }): PublishResult => ({ status: "accepted", durability })),
      );
    },
  };
  const bus = createBus({
    adapter,
    store: await world.database.store(),
    onEvent: (event) => void events.push(event),
  });
  const takeWidest = (): number => {
    const since = widest;
    widest = 0;
    return since;
  };
  return { bus, events, takeWidest };
}

/** Commits messages of as many keys in one transaction, and waits until they have left. */
async function sendMany(world: StoreWorld): Promise<void> {
  const store = await world.store();
  await world.commit(store, ...Array.from({ length: 20 }, (_, n) => entry(`${n}`, { key: `${n}` })));
  await eventually(async () => assert.deepEqual(await world.rows(store.outbox), []));
}

const refusals = (events: readonly BusEvent[]): string[] =>
  events.flatMap((event) =>
    event.type === "relayFailed" && event.error.code === "ERR_CONFIG" ? [event.error.message] : [],
  );

/** Its leases run out twenty times as fast as its relay believes: every one that is stopped becomes a zombie. */
function impatient(store: Store, process: Process): Store {
  const outbox = Object.fromEntries(
    Object.entries(store.outbox).map(([name, method]) => [
      name,
      async (...args: unknown[]) => {
        await process.frozen.pass();
        if (name === "acquire") args[1] = Number(args[1]) / 20;
        if (name === "renew") args[2] = Number(args[2]) / 20;
        const result: unknown = await (method as (...args: unknown[]) => Promise<unknown>)(...args);
        if (name === "acquire" && result !== undefined) process.takeovers += 1;
        await process.frozen.pass();
        return result;
      },
    ]),
  ) as unknown as Store["outbox"];
  return { ...store, outbox, connect: () => Promise.resolve(), close: () => Promise.resolve() };
}

interface Written {
  /** Ids of committed messages. */
  readonly committed: Set<string>;
  /** By key, in the order of their commits. */
  readonly byKey: Map<string, string[]>;
}

/** Transactions of a random shape: one or several messages, keys of the hot few or none, held open, rolled back. */
async function write(
  world: StoreWorld,
  store: Store,
  random: () => number,
  until: (transactions: number) => boolean,
): Promise<Written> {
  const written: Written = { committed: new Set(), byKey: new Map() };
  let transactions = 0;
  const one = async (): Promise<void> => {
    const n = (transactions += 1);
    const transaction = await world.database.begin();
    const mine: { readonly id: string; readonly key: string | undefined }[] = [];
    for (let call = random() < 0.3 ? 0 : 1; call < 2; call += 1) {
      // One key for each transaction: two of them then never wait for each other.
      const entries = Array.from({ length: 1 + Math.floor(random() * 3) }, (_, i) => ({
        id: `${n}.${call}.${i}`,
        key: random() < 0.8 ? `key ${n % 5}` : undefined,
      }));
      await store.outbox.append(
        transaction.handle,
        entries.map(({ id, key }) => entry(id, key === undefined ? {} : { key })),
      );
      mine.push(...entries);
    }
    if (random() < 0.3) await nodeRuntime.sleep(random() * 20);
    if (random() < 0.15) return transaction.rollback();
    // While it holds its key, nobody else can come in between.
    for (const { id, key } of mine) {
      written.committed.add(id);
      if (key !== undefined) written.byKey.set(key, [...(written.byKey.get(key) ?? []), id]);
    }
    await transaction.commit();
    // Fast at first, so that there is a backlog; then at a pace that a relay under faults can follow.
    await nodeRuntime.sleep(random() * (transactions < 300 ? 10 : 200));
  };
  await Promise.all(
    Array.from({ length: 6 }, async () => {
      while (!until(transactions)) await one();
    }),
  );
  return written;
}

function assertDelivered({ accepted }: Broker, { committed, byKey }: Written): void {
  const first = [...new Map(accepted.map((one) => [one.id, one])).values()];
  const arrived = new Set(first.map(({ id }) => id));
  assert.deepEqual(
    [...committed].filter((id) => !arrived.has(id)),
    [],
    "lost",
  );
  assert.deepEqual(
    [...arrived].filter((id) => !committed.has(id)),
    [],
    "never committed",
  );
  for (const [key, ids] of byKey) {
    assert.deepEqual(
      first.filter((one) => one.key === key).map(({ id }) => id),
      ids,
      `order of ${key}`,
    );
  }
}

/** `freezes`: how often the relay that works is stopped until another has taken over. */
async function run(
  world: StoreWorld,
  options: {
    readonly seed: number;
    readonly faults: boolean;
    readonly freezes: number;
    readonly order?: "none" | undefined;
  },
): Promise<void> {
  const runtime = createFakeRuntime({ seed: options.seed });
  const random = (): number => runtime.random("test");
  const broker: Broker = { accepted: [] };
  const fault = (): "none" | "rejected" | "unknown" => {
    const draw = options.faults ? random() : 1;
    return draw < 0.02 ? "rejected" : draw < 0.04 ? "unknown" : "none";
  };
  const start = async (): Promise<Process & { readonly bus: Bus }> => {
    const process: Process = { frozen: freezer(), takeovers: 0 };
    const store = impatient(await world.store(), process);
    const bus = createBus({
      adapter: recording(broker, process.frozen, fault),
      store,
      onEvent: () => undefined,
    });
    bus.relay({ batch: 50, order: options.order });
    return Object.assign(process, { bus });
  };
  const processes = await Promise.all(Array.from({ length: options.freezes > 0 ? 2 : 1 }, start));
  const [first, second = first] = processes;
  assert.ok(first !== undefined && second !== undefined);

  let freezes = 0;
  const writing = write(world, await world.store(), random, (n) => n >= 400 && freezes === options.freezes);
  for (; freezes < options.freezes; freezes += 1) {
    const [victim, other] = freezes % 2 === 0 ? [first, second] : [second, first];
    await nodeRuntime.sleep(random() * 200);
    const before = other.takeovers;
    victim.frozen.freeze();
    await eventually(() => assert.ok(other.takeovers > before, "nobody took over"));
    await nodeRuntime.sleep(random() * 200);
    victim.frozen.thaw();
  }
  const written = await writing;
  const reader = await world.store();
  await eventually(async () => assert.deepEqual(await world.rows(reader.outbox), []), 60_000);
  await Promise.all(processes.map(({ bus }) => bus.close({ timeout: 0 })));

  assertDelivered(broker, options.order === "none" ? { ...written, byKey: new Map() } : written);
}

export const relaying: readonly StoreScenario[] = [
  storeScenario("R1", "a relay under writers delivers what was committed, in order per key", (world) =>
    run(world, { seed: 1, faults: false, freezes: 0 }),
  ),
  storeScenario("R2", "also when the broker refuses some and leaves others unanswered", (world) =>
    run(world, { seed: 2, faults: true, freezes: 0 }),
  ),
  storeScenario(
    "R3",
    "also when relays are stopped past their lease, taken over from, and wake up again",
    (world) => run(world, { seed: 3, faults: true, freezes: 6 }),
  ),

  storeScenario(
    "R4",
    "a message no broker will take is parked with its reason, and others go on",
    async (world) => {
      const store = await world.store();
      const memory = adapterFromUrl("memory:");
      const accepted: string[] = [];
      const error = new PublishError("ERR_TOO_LARGE", "too large for the broker", {
        accepted: "no",
        messageId: "1",
        retryable: false,
      });
      const adapter: Adapter = {
        ...memory,
        publish: async (batch) =>
          batch.map(({ message, durability, destination }): PublishResult => {
            const id = idOf({ message, durability, destination });
            if (id === "1") return { status: "rejected", error };
            accepted.push(id);
            return { status: "accepted", durability };
          }),
      };
      for (const n of [0, 1, 2, 3]) await world.commit(store, entry(`${n}`, { key: "k" }));

      const bus = createBus({ adapter, store, onEvent: () => undefined });
      bus.relay();
      await eventually(async () => {
        const { depth, parked } = await store.outbox.backlog();
        assert.deepEqual([depth, parked], [0, 1]);
      });
      await bus.close();

      assert.deepEqual(accepted, ["0", "2", "3"]);
    },
  ),

  storeScenario(
    "R5",
    "in no order at all everything still arrives, under writers, faults and takeovers",
    (world) => run(world, { seed: 5, faults: true, freezes: 2, order: "none" }),
  ),

  storeScenario(
    "R6",
    "in one order for all, what is committed late is not overtaken by what was sent after it",
    async (world) => {
      const store = await world.store();
      let fetches = 0;
      const counting: Store = {
        ...store,
        outbox: {
          ...store.outbox,
          fetch: (spec) => {
            fetches += 1;
            return store.outbox.fetch(spec);
          },
        },
        connect: () => Promise.resolve(),
        close: () => Promise.resolve(),
      };
      const broker: Broker = { accepted: [] };
      const late = await world.database.begin();
      await store.outbox.append(late.handle, [entry("late", { key: "l" })]);
      for (const n of [0, 1, 2, 3]) await world.commit(store, entry(`${n}`, { key: `${n}` }));

      const bus = createBus({ adapter: recording(broker, freezer(), () => "none"), store: counting });
      const relay = bus.relay({ order: "global" });
      // Time enough to do it wrong.
      await eventually(() => {
        relay.wake();
        assert.ok(fetches > 5);
      });
      await late.commit();
      await eventually(() => assert.equal(broker.accepted.length, 5));
      await bus.close();

      assert.deepEqual(
        broker.accepted.map(({ id }) => id),
        ["late", "0", "1", "2", "3"],
      );
    },
    needsConcurrency,
  ),

  storeScenario(
    "R7",
    "a relay that a bus started by itself sends in the order that was named, also when that came later",
    async (world) => {
      const [consuming, relaying] = [await sender(world), await sender(world)];
      await consuming.bus.once("key", () => undefined);
      await sendMany(world);
      const alone = consuming.takeWidest();

      const relay = relaying.bus.relay({ order: "global" });
      await eventually(() => assert.ok(relay.health().active));
      await sendMany(world);
      await relaying.bus.close();
      await sendMany(world);
      await consuming.bus.close();
      const later = await sender(world);
      await later.bus.once("key", () => undefined);
      await sendMany(world);
      await later.bus.close();

      assert.ok(alone > 1);
      assert.deepEqual(
        [relaying, consuming, later].map((each) => each.takeWidest()),
        [1, 1, 1],
      );
      assert.deepEqual(
        [consuming, relaying, later].flatMap(({ events }) => refusals(events)),
        [],
      );
    },
  ),

  storeScenario(
    "R8",
    "an order other than the one that a relay at work was given is refused until that relay ends",
    async (world) => {
      const [first, second] = [await sender(world), await sender(world)];
      const working = first.bus.relay({ order: "none" });
      await eventually(() => assert.ok(working.health().active));

      const refused = second.bus.relay({ order: "global" });
      await eventually(() => assert.equal(refused.health().error?.code, "ERR_CONFIG"));
      assert.equal(second.bus.health().checks["relay"]?.status, "down");
      await sendMany(world);
      await first.bus.close();
      await eventually(() => assert.ok(refused.health().active));
      await eventually(() => assert.equal(refused.health().error, undefined));
      await sendMany(world);
      await second.bus.close();

      assert.ok(first.takeWidest() > 1);
      assert.equal(second.takeWidest(), 1);
      assert.equal(refusals(second.events).length, 1);
      assert.match(refusals(second.events)[0] ?? "", /"global".*"none"/u);
      assert.deepEqual(refusals(first.events), []);
    },
  ),
];
