/** Acknowledges a message first, and writes its retry or its dead letter while nobody waits for it. */
import type { CreateBackend } from "postrider/testing";
import {
  type Adapter,
  type Destination,
  type HeaderPatch,
  type RawDelivery,
  header,
  patchHeaders,
} from "../../../../src/spi.ts";
import { mutate } from "./mutate.ts";

export const createBackend: CreateBackend = mutate({
  adapter: (adapter) => ({
    ...adapter,
    async subscribe(spec, sink) {
      const subscription = await adapter.subscribe(spec, sink);
      const settle = async (delivery: RawDelivery, patch: HeaderPatch, to: Destination) => {
        const [result] = await subscription.ack([delivery]);
        void copy(adapter, delivery, patch, to);
        return result ?? { status: "stale" as const };
      };
      const destination = { topic: spec.topic, group: spec.group };
      subscription.defer = (delivery, delayMs, patch) =>
        settle(delivery, { ...patch, [header.notBefore]: String(Date.now() + delayMs) }, destination);
      subscription.deadLetter = (delivery, patch) => settle(delivery, patch, { ...destination, dead: true });
      return subscription;
    },
  }),
});

function copy(
  adapter: Adapter,
  { message }: RawDelivery,
  patch: HeaderPatch,
  destination: Destination,
): Promise<unknown> {
  const copied = { ...message, headers: patchHeaders(message.headers, patch) };
  return adapter.publish([{ destination, message: copied, durability: "replicated", requireRoute: false }]);
}
