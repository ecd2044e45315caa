/** What clients call automatic acknowledgement: a message is settled when it arrives. */
import type { CreateBackend } from "postrider/testing";
import type { RawDelivery } from "../../../../src/spi.ts";
import { mutate } from "./mutate.ts";

export const createBackend: CreateBackend = mutate({
  adapter: (adapter) => ({
    ...adapter,
    async subscribe(spec, sink) {
      const subscribed = Promise.withResolvers<Awaited<ReturnType<typeof adapter.subscribe>>>();
      const settle = async (deliveries: readonly RawDelivery[]): Promise<void> => {
        await (await subscribed.promise).ack(deliveries);
        sink.deliver(deliveries);
      };
      const subscription = await adapter.subscribe(spec, {
        deliver: (deliveries) => void settle(deliveries),
        lost: (deliveries) => sink.lost(deliveries),
      });
      subscribed.resolve(subscription);
      return subscription;
    },
  }),
});
