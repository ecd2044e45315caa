/** The two publishers besides the outbox: to the broker, and what a handler is given. */
import { ConfigurationError } from "./errors.ts";
import type { Producer } from "./producer.ts";
import {
  type PublishAllOptions,
  type PublishOptions,
  type Publisher,
  checkPublishAllOptions,
  checkPublishOptions,
} from "./publisher.ts";
import { checkTopic } from "./topic.ts";
import type { Work } from "./work.ts";

/** Sending to the broker, not through an outbox. */
export function directPublisher(producer: Producer, outboxOnly: boolean): Publisher {
  const check = (where: string, topic: unknown): void => {
    checkTopic(where, topic);
    if (!outboxOnly) return;
    throw new ConfigurationError("ERR_CONFIG", "this bus is outboxOnly: publish through bus.outbox(tx)");
  };
  return {
    async publish(topic, payload, options) {
      check("publish", topic);
      return producer.publish(topic, payload, checkPublishOptions(options));
    },
    async publishAll(topic, payloads, options) {
      check("publishAll", topic);
      return producer.publishAll(topic, payloads, checkPublishAllOptions(payloads, options));
    },
  };
}

/** `to` with the correlation id of `work`'s message, and its id as the causation id, unless the caller gives others. */
export function handlerPublisher(work: Work, to: Publisher): Publisher {
  const { id, correlationId = id } = work.message;
  const chained = <T extends PublishOptions | PublishAllOptions>(options: T | undefined): T =>
    ({ correlationId, causationId: id, ...options }) as T;
  return {
    publish: (topic, payload, options) => to.publish(topic, payload, chained(options)),
    publishAll: (topic, payloads, options) => to.publishAll(topic, payloads, chained(options)),
  };
}
