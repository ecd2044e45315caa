/**
 * An adapter of your own, about the shortest there can be, for a broker made of arrays. It uses `postrider/spi` only, says
 * plainly what it cannot do, and passes the conformance suite (test/examples/adapter.test.ts).
 */
import type * as spi from "postrider/spi";
import { LifecycleError, PublishError, idOf, patchHeaders } from "postrider/spi";
import { type ArrayBroker, type Entry, type Group, groupOf } from "./broker.ts";

/** What is handed over, and what ends its lease. */
type Held = { readonly entry: Entry; cancel: () => void };

function publish(broker: ArrayBroker, outgoing: spi.OutgoingMessage): spi.PublishResult {
  const { destination, message, durability } = outgoing;
  const { topic, group, dead } = destination;
  const messageId = idOf(topic.name, "", message);
  if (group !== undefined) {
    const one = groupOf(broker, { topic, group });
    if (dead === true) one.dead.set(messageId, message);
    else one.add(message);
    return { status: "accepted", durability };
  }
  const groups = [...(broker.get(topic.name)?.values() ?? [])];
  for (const one of groups) one.add(message);
  if (groups.length > 0 || !outgoing.requireRoute) return { status: "accepted", durability };
  const details = { accepted: "no", messageId } as const;
  return { status: "rejected", error: new PublishError("ERR_NO_ROUTE", "the topic has no group", details) };
}

function subscribe(
  group: Group,
  runtime: spi.Runtime,
  spec: spi.SubscribeSpec,
  sink: spi.DeliverySink,
): spi.Subscription {
  const held = new Map<spi.RawDelivery, Held>();
  let state: "running" | "paused" | "stopped" = "running";
  const of = { topic: spec.topic.name, group: spec.group, redeliveries: 0, token: undefined };

  const wake = (): void => runtime.defer(handOver);
  const handOver = (): void => {
    const free = state === "running" ? spec.prefetch - held.size : 0;
    for (const entry of group.ready.splice(0, free)) {
      const delivery = { ...of, message: entry.message, position: `${entry.place}` };
      held.set(delivery, { entry, cancel: lease(delivery, entry) });
      sink.deliver([delivery]);
    }
  };
  const lease = (delivery: spi.RawDelivery, entry: Entry): spi.Cancel => {
    const end = (): void => {
      held.delete(delivery);
      sink.lost([delivery]);
      group.giveBack(entry);
    };
    return runtime.setTimer(spec.leaseMs, end, { unref: true });
  };
  /** Nothing comes between taking it from what is held and `act`: that is what makes it atomic. */
  const settle = (delivery: spi.RawDelivery, act: (entry: Entry) => void): spi.SettleResult => {
    const known = held.get(delivery);
    if (known === undefined) return { status: "stale" };
    known.cancel();
    held.delete(delivery);
    act(known.entry);
    wake();
    return { status: "done" };
  };
  const extend = (delivery: spi.RawDelivery): spi.SettleResult =>
    settle(delivery, (entry) => held.set(delivery, { entry, cancel: lease(delivery, entry) }));
  const giveBack = (entry: Entry): void => group.giveBack(entry);
  const patched = ({ message }: Entry, patch: spi.HeaderPatch): spi.WireMessage => {
    return { ...message, headers: patchHeaders(message.headers, patch) };
  };

  group.wakers.add(wake);
  wake();
  return {
    ack: async (deliveries) => deliveries.map((one) => settle(one, () => undefined)),
    release: async (deliveries) => deliveries.map((one) => settle(one, giveBack)),
    extend: async (deliveries) => deliveries.map(extend),
    defer: async (delivery, delayMs, patch) =>
      settle(delivery, (entry) => {
        runtime.setTimer(delayMs, () => group.add(patched(entry, patch)), { unref: true });
      }),
    deadLetter: async (delivery, patch) =>
      settle(delivery, (entry) => {
        group.dead.set(idOf(of.topic, delivery.position, entry.message), patched(entry, patch));
      }),
    pause: () => void (state = state === "running" ? "paused" : state),
    resume() {
      if (state === "paused") state = "running";
      wake();
    },
    stop: async () => void (state = "stopped"),
    async close() {
      state = "stopped";
      group.wakers.delete(wake);
      for (const delivery of held.keys()) settle(delivery, giveBack);
    },
    health: () => ({ consuming: state !== "stopped", silentMs: 0 }),
  };
}

function openDeadLetters({ dead }: Group): spi.DeadLetterCursor {
  const letters = Array.from(dead, ([id, message]) => ({ message, position: id, token: id }));
  return {
    read: async (limit) => letters.splice(0, limit).filter(({ token }) => dead.has(token)),
    remove: async (removed) => removed.forEach(({ token }) => dead.delete(token as string)),
    close: async () => undefined,
  };
}

/** What it cannot do it says here: the core refuses what was asked for in vain, and the suite leaves it out. */
const capabilities: spi.Capabilities = {
  persistent: false,
  server: false,
  retains: false,
  ordering: "none",
  deliveryCount: false,
  settlement: "atomic",
  dedupe: false,
  durability: ["none", "accepted", "replicated"],
  maxDelayMs: 86_400_000,
  cancel: false,
  maxBytes: 1_048_576,
};

export function arrays(broker: ArrayBroker = new Map()): spi.Adapter {
  const open = new Set<spi.Subscription>();
  let context: spi.AdapterContext | undefined;
  return {
    name: "arrays",
    capabilities,
    publishLimits: { maxBatch: 100, maxInFlight: 1 },
    connect: async (given) => void (context = given),
    declare: async ({ groups }) => groups.forEach((spec) => groupOf(broker, spec)),
    publish: async (batch) => batch.map((outgoing) => publish(broker, outgoing)),
    async subscribe(spec, sink) {
      if (context === undefined) throw new LifecycleError("ERR_NOT_STARTED", "arrays is not connected");
      const subscription = subscribe(groupOf(broker, spec), context.runtime, spec, sink);
      open.add(subscription);
      return subscription;
    },
    openDeadLetters: async (spec) => openDeadLetters(groupOf(broker, spec)),
    health: () => ({ connected: context !== undefined }),
    async close() {
      for (const subscription of open) await subscription.close();
      context = undefined;
    },
  };
}
