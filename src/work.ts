/** One delivery on its way through a consumer. */
import type { RawDelivery } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { describe } from "./envelope.ts";
import type { DeliveryInfo } from "./events.ts";
import { header, headerCount, headerTime } from "./headers.ts";
import type { Message } from "./message.ts";
import type { InboxKey } from "./store.ts";

export interface Work {
  readonly raw: RawDelivery;
  /** The message without its payload. */
  readonly message: Omit<Message, "payload">;
  /** How the inbox knows it: the same for every copy of the message, whatever queue it came from. */
  readonly inboxKey: InboxKey;
  /** Number of the attempt under way or about to start. */
  attempt: number;
  /** When the first attempt failed, epoch milliseconds. */
  firstFailureAt: number | undefined;
  /** Aborts the handler: drain over, or the delivery lost. */
  readonly cancel: AbortController;
  /**
   * `waiting`: no handler has run in this process. `ended`: settled, lost or given back; nothing may settle it any more.
   */
  state: "waiting" | "running" | "ended";
}

export function createWork(raw: RawDelivery, runtime: Runtime): Work {
  const { headers } = raw.message;
  const message = describe(raw.topic, raw.position, raw.message, runtime.now());
  return {
    raw,
    message,
    inboxKey: {
      scope: `${raw.topic}--${raw.group}`,
      key: message.idempotencyKey ?? message.id,
      redrives: headerCount(headers, header.redrives),
    },
    attempt: headerCount(headers, header.failures) + raw.redeliveries + 1,
    firstFailureAt: headerTime(headers, header.firstFailureAt),
    cancel: new AbortController(),
    state: "waiting",
  };
}

/** How events name it. */
export function infoOf(work: Work): DeliveryInfo {
  const { raw, message, attempt } = work;
  return { topic: raw.topic, group: raw.group, messageId: message.id, attempt };
}
