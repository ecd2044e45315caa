/**
 * The memory adapter with the mistake this library was made against: it acknowledges a message first and writes its dead
 * letter afterwards. Nothing shows as long as nothing fails.
 */
import type { Backend } from "postrider/testing";
import {
  type Adapter,
  type HeaderPatch,
  type RawDelivery,
  type SettleResult,
  TransportError,
  patchHeaders,
} from "../../../src/spi.ts";
import { createBackend as createMemoryBackend } from "./memory.ts";

export async function createBackend(): Promise<Backend> {
  const backend = await createMemoryBackend();
  const broker = { refuses: false };
  return {
    ...backend,
    adapter: () => acknowledgingFirst(backend.adapter(), broker),
    faults: {
      ...backend.faults,
      async refuseDeadLetters() {
        broker.refuses = true;
        return async () => void (broker.refuses = false);
      },
    },
  };
}

function acknowledgingFirst(adapter: Adapter, broker: { readonly refuses: boolean }): Adapter {
  return {
    ...adapter,
    async subscribe(spec, sink) {
      const subscription = await adapter.subscribe(spec, sink);
      subscription.deadLetter = async (delivery, patch) => {
        await subscription.ack([delivery]);
        return broker.refuses ? refused : copy(adapter, delivery, patch, spec);
      };
      return subscription;
    },
  };
}

const refused: SettleResult = {
  status: "failed",
  error: new TransportError("ERR_BROKER", "dead letters are refused"),
};

async function copy(
  adapter: Adapter,
  { message, group }: RawDelivery,
  patch: HeaderPatch,
  { topic }: Parameters<Adapter["subscribe"]>[0],
): Promise<SettleResult> {
  const letter = { ...message, headers: patchHeaders(message.headers, patch) };
  const destination = { topic, group, dead: true };
  await adapter.publish([{ destination, message: letter, durability: "replicated", requireRoute: false }]);
  return { status: "done" };
}
