/** `bus.cancel`: taking a delayed message back. The broker alone knows whether it still waits. */
import type { Adapter, TopicSpec } from "./adapter.ts";
import { capabilityError } from "./capabilities.ts";
import { checkId } from "./envelope.ts";
import { topicSpec } from "./producer.ts";
import { checkTopic } from "./topic.ts";

/** See `Bus.cancel`. `ready` resolves when the adapter is connected and the topic exists. */
export async function cancelDelayed(
  adapter: Adapter,
  ready: (topic: TopicSpec) => Promise<void>,
  topic: unknown,
  id: string,
): Promise<boolean> {
  checkTopic("cancel", topic);
  checkId("cancel id", id);
  if (!adapter.capabilities.cancel) {
    const remedy = "Let the handler find out that it is not wanted any more, and return discard(reason).";
    throw capabilityError(adapter.name, "cannot cancel a delayed message", remedy);
  }
  const spec = topicSpec(topic);
  await ready(spec);
  return (await adapter.cancel?.(spec, id)) ?? false;
}
