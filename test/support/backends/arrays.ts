/** The example adapter, with faults put around it from outside: any adapter can be tested so. */
import { type Adapter, type RawDelivery, TransportError } from "postrider/spi";
import type { Backend } from "postrider/testing";
import { bareProducer } from "./foreign.ts";
import { arrays } from "../../../examples/adapter/arrays.ts";
import type { ArrayBroker } from "../../../examples/adapter/broker.ts";
import { openSqliteDatabase } from "../sqlite-database.ts";

interface Faults {
  /** No answer comes before it resolves. */
  held: Promise<void>;
  refusesDeadLetters: boolean;
  readonly cut: Set<() => Promise<void>>;
}

export async function createBackend(): Promise<Backend> {
  const broker: ArrayBroker = new Map();
  const database = await openSqliteDatabase();
  const faults: Faults = { held: Promise.resolve(), refusesDeadLetters: false, cut: new Set() };
  const noServer = (): Promise<never> => Promise.reject(new Error("there is no server"));
  return {
    adapter: () => faulty(arrays(broker), faults),
    database,
    faults: {
      async holdReplies() {
        const { promise, resolve } = Promise.withResolvers<void>();
        faults.held = promise;
        return async () => resolve();
      },
      async cutConnections() {
        for (const cut of faults.cut) await cut();
      },
      async refuseDeadLetters() {
        faults.refusesDeadLetters = true;
        return async () => void (faults.refusesDeadLetters = false);
      },
      stallConnections: noServer,
      refuseConnections: noServer,
      slowConnections: noServer,
      deleteGroup: noServer,
      restartBroker: noServer,
    },
    foreign: bareProducer(() => arrays(broker)),
    close: () => database.close(),
  };
}

function faulty(adapter: Adapter, faults: Faults): Adapter {
  return {
    ...adapter,
    async publish(batch) {
      const results = await adapter.publish(batch);
      await faults.held;
      return results;
    },
    async subscribe(spec, sink) {
      const held = new Set<RawDelivery>();
      const subscription = await adapter.subscribe(spec, {
        deliver(deliveries) {
          for (const delivery of deliveries) held.add(delivery);
          sink.deliver(deliveries);
        },
        lost: (deliveries) => sink.lost(deliveries),
      });
      const deadLetter = subscription.deadLetter.bind(subscription);
      const refused = new TransportError("ERR_BROKER", "dead letters are refused");
      faults.cut.add(async () => {
        const results = await subscription.release([...held]);
        sink.lost([...held].filter((_, i) => results[i]?.status === "done"));
        held.clear();
      });
      return Object.assign(subscription, {
        deadLetter: ((delivery, patch) =>
          faults.refusesDeadLetters
            ? Promise.resolve({ status: "failed", error: refused })
            : deadLetter(delivery, patch)) satisfies typeof deadLetter,
      });
    },
  };
}
