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
  /** Number of the attempt under way, or of the last one. */
  attempt: number;
  /** Attempts that failed; those of earlier copies count. This is what a retry policy limits. */
  failures: number;
  /** Hand-overs that ended without a word (crashes, lost connections); those of earlier copies count. */
  readonly redeliveries: number;
  /** When the first attempt failed, epoch milliseconds. */
  firstFailureAt: number | undefined;
  /** Aborts the handler: drain over, or the delivery lost and nothing else protects it. */
  readonly cancel: AbortController;
  /** The broker took it back: nothing may be started or waited for any more, and settling it there is stale. */
  lost: boolean;
  /** It came behind others of its lane, so that it cannot be what ended an earlier hand-over. */
  behind: boolean;
  /** It is out of attempts, and its lane waits for it. */
  blocks: boolean;
  /** Ends the wait under way, if there is one. */
  wake: (() => void) | undefined;
  /**
   * `waiting`: no handler has run in this process. `ended`: settled, lost or given back; nothing may settle it any more.
   */
  state: "waiting" | "running" | "ended";
}

export function createWork(raw: RawDelivery, runtime: Runtime): Work {
  const { headers } = raw.message;
  const message = describe(raw.topic, raw.position, raw.message, runtime.now());
  const failures = headerCount(headers, header.failures);
  const redeliveries = headerCount(headers, header.redeliveries) + raw.redeliveries;
  return {
    raw,
    message,
    inboxKey: {
      scope: inboxScope(raw.topic, raw.group),
      key: message.idempotencyKey ?? message.id,
      redrives: message.redrives,
    },
    attempt: failures + redeliveries + 1,
    failures,
    redeliveries,
    firstFailureAt: headerTime(headers, header.firstFailureAt),
    cancel: new AbortController(),
    lost: false,
    behind: false,
    blocks: false,
    wake: undefined,
    state: "waiting",
  };
}

/** Where the inbox keeps what a group has handled of a topic. */
export function inboxScope(topic: string, group: string): string {
  return `${topic}--${group}`;
}

/** Waits for `ms`, or until the delivery is lost. Rejects with the signal's reason when it aborts first. */
export function waitWith(work: Work, runtime: Runtime, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    if (work.lost) return resolve();
    const end = (): void => {
      cancel();
      signal.removeEventListener("abort", onAbort);
      work.wake = undefined;
    };
    const finish = (): void => {
      end();
      resolve();
    };
    const onAbort = (): void => {
      end();
      reject(signal.reason as Error);
    };
    const cancel = runtime.setTimer(ms, finish);
    signal.addEventListener("abort", onAbort, { once: true });
    work.wake = finish;
  });
}

/** How events name it. */
export function infoOf(work: Work): DeliveryInfo {
  const { raw, message, attempt } = work;
  return { topic: raw.topic, group: raw.group, messageId: message.id, attempt };
}
