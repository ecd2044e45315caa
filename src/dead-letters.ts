/** Dead letters as a product: list them, redrive them to their group, discard them; the same on every broker. */
import type { Adapter, DeadLetterCursor, GroupSpec, StoredDeadLetter } from "./adapter.ts";
import type { Runtime } from "./clock.ts";
import { decodePayload, describe } from "./envelope.ts";
import type { DeadLetterReason, EventListener } from "./events.ts";
import { deadLetterHeaders, header, headerCount, headerTime, patchHeaders } from "./headers.ts";
import type { Message, WireMessage } from "./message.ts";
import { checkBoolean, checkFunction, checkInteger, checkKeys } from "./options.ts";
import type { Producer } from "./producer.ts";
import { ConfigurationError } from "./errors.ts";
import type { Topic } from "./topic.ts";

/** A message that could not be handled, with what is known of why. */
export interface DeadLetter<Payload = unknown> {
  /** `payload` is `undefined` when the bytes cannot be decoded or do not match the schema; `body` has them. */
  readonly message: Message<Payload | undefined>;
  /** The original bytes. */
  readonly body: Uint8Array | null;
  readonly topic: string;
  readonly group: string;
  readonly reason: DeadLetterReason;
  /** The last error; its message is cut at 2 KiB and redacted. */
  readonly error: { readonly name: string; readonly message: string; readonly code: string | undefined };
  /** Attempts made. */
  readonly attempts: number;
  readonly firstFailureAt: Date | undefined;
  readonly deadLetteredAt: Date | undefined;
  /** How often it was redriven before. */
  readonly redrives: number;
}

export interface SelectOptions<Payload = unknown> {
  /** Only these message ids. */
  readonly ids?: readonly string[] | undefined;
  /** Only letters for which it returns true. */
  readonly where?: ((letter: DeadLetter<Payload>) => boolean) | undefined;
  /** At most this many. */
  readonly limit?: number | undefined;
  /** Stops after the current letter; rejects with the signal's reason. What was done stays done. */
  readonly signal?: AbortSignal | undefined;
}

export interface RedriveOptions<Payload = unknown> extends SelectOptions<Payload> {
  /** Most messages per second. Default: as fast as they are confirmed. */
  readonly rate?: number | undefined;
  /** Only counts. */
  readonly dryRun?: boolean | undefined;
}

export interface RedriveReport {
  /** Letters that were selected. */
  readonly matched: number;
  /** Letters that are now on their way to the group again; 0 in a dry run. */
  readonly redriven: number;
}

export interface DiscardReport {
  readonly matched: number;
  /** Letters that are gone for good; 0 in a dry run. */
  readonly discarded: number;
}

export interface DeadLetters<Payload = unknown> {
  /** Oldest first, one per message. On RabbitMQ, letters being listed are hidden from others until the loop ends. */
  list(options?: SelectOptions<Payload>): AsyncIterable<DeadLetter<Payload>>;
  /**
   * Sends letters back to their own group, with attempts reset and everything else as it was. A letter is removed only
   * after the broker confirmed its message: killed half-way it can be run again, and consumers with `once` see each once.
   */
  redrive(options?: RedriveOptions<Payload>): Promise<RedriveReport>;
  /** Removes letters for good. Asks for `ids` or `where`, so that nothing is emptied by accident. */
  discard(options: SelectOptions<Payload> & { readonly dryRun?: boolean }): Promise<DiscardReport>;
}

export interface DeadLettersContext {
  readonly adapter: Adapter;
  readonly producer: Producer;
  readonly runtime: Runtime;
  readonly emit: EventListener;
  readonly topic: Topic;
  readonly spec: GroupSpec;
  /** Resolves when connected and the group's queues exist. */
  ready(): Promise<void>;
}

const pageSize = 100;
const selectKeys = ["ids", "where", "limit", "signal"] as const;

interface Selected {
  readonly stored: StoredDeadLetter;
  readonly letter: DeadLetter;
}

export function createDeadLetters(context: DeadLettersContext): DeadLetters {
  const { runtime, producer, spec } = context;

  /** Opens a cursor, gives it the selected letters page by page, and closes it whatever happens. */
  async function* select(
    options: SelectOptions,
  ): AsyncGenerator<{ cursor: DeadLetterCursor; page: Selected[] }> {
    await context.ready();
    const cursor = await context.adapter.openDeadLetters(spec);
    try {
      let left = options.limit ?? Infinity;
      const ids = options.ids === undefined ? undefined : new Set(options.ids);
      for (;;) {
        options.signal?.throwIfAborted();
        if (left <= 0) return;
        const stored = await cursor.read(pageSize);
        if (stored.length === 0) return;
        const all = stored.map(async (one): Promise<Selected> => ({
          stored: one,
          letter: await toDeadLetter(context.topic, spec, one, runtime.now()),
        }));
        const page = (await Promise.all(all))
          .filter(({ letter }) => ids?.has(letter.message.id) ?? true)
          .filter(({ letter }) => options.where?.(letter) ?? true)
          .slice(0, left);
        left -= page.length;
        if (page.length > 0) yield { cursor, page };
      }
    } finally {
      await cursor.close();
    }
  }

  const redriveOne = async ({ stored, letter }: Selected, signal: AbortSignal | undefined): Promise<void> => {
    const message = redriven(stored.message, letter);
    const destination = { topic: spec.topic, group: spec.group };
    await producer.send(
      { destination, message, durability: "replicated", requireRoute: true },
      undefined,
      signal,
    );
    context.emit({
      type: "redriven",
      topic: letter.topic,
      group: letter.group,
      messageId: letter.message.id,
    });
  };

  return {
    async *list(options = {}) {
      checkSelect("list", options, selectKeys);
      for await (const { page } of select(options)) for (const { letter } of page) yield letter;
    },
    async redrive(options = {}) {
      checkSelect("redrive", options, [...selectKeys, "rate", "dryRun"]);
      const intervalMs = options.rate === undefined ? 0 : 1_000 / checkRate(options.rate);
      const report = { matched: 0, redriven: 0 };
      for await (const { cursor, page } of select(options)) {
        report.matched += page.length;
        if (options.dryRun === true) continue;
        for (const part of intervalMs === 0 ? [page] : page.map((one) => [one])) {
          options.signal?.throwIfAborted();
          const results = await Promise.allSettled(part.map((one) => redriveOne(one, options.signal)));
          const done = part.filter((_, i) => results[i]?.status === "fulfilled");
          if (done.length > 0) await cursor.remove(done.map(({ stored }) => stored));
          report.redriven += done.length;
          const failed = results.find((result) => result.status === "rejected");
          if (failed !== undefined) throw failed.reason;
          if (intervalMs > 0) await runtime.sleep(intervalMs, options.signal);
        }
      }
      return report;
    },
    async discard(options) {
      checkSelect("discard", options, [...selectKeys, "dryRun"]);
      if (options.ids === undefined && options.where === undefined) {
        throw new ConfigurationError(
          "ERR_CONFIG",
          "discard needs ids or where; to empty the dead letters use where: () => true",
        );
      }
      const report = { matched: 0, discarded: 0 };
      for await (const { cursor, page } of select(options)) {
        report.matched += page.length;
        if (options.dryRun === true) continue;
        await cursor.remove(page.map(({ stored }) => stored));
        report.discarded += page.length;
      }
      return report;
    },
  };
}

function checkSelect(
  where: string,
  options: SelectOptions & { readonly dryRun?: boolean | undefined },
  known: readonly string[],
): void {
  checkKeys(where, options, known);
  if (options.dryRun !== undefined) checkBoolean(`${where} dryRun`, options.dryRun);
  if (options.limit !== undefined) checkInteger(`${where} limit`, options.limit, 1, Number.MAX_SAFE_INTEGER);
  if (options.where !== undefined) checkFunction(`${where} where`, options.where);
  if (options.ids !== undefined && !Array.isArray(options.ids)) {
    throw new ConfigurationError("ERR_CONFIG", `${where} ids must be an array of message ids`);
  }
}

function checkRate(rate: number): number {
  if (typeof rate !== "number" || !(rate > 0 && rate <= 1_000_000)) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `redrive rate must be messages per second above 0, got ${String(rate)}`,
    );
  }
  return rate;
}

async function toDeadLetter(
  topic: Topic,
  spec: GroupSpec,
  stored: StoredDeadLetter,
  now: number,
): Promise<DeadLetter> {
  const { message: wire } = stored;
  const { headers } = wire;
  const time = (name: string): Date | undefined => {
    const value = headerTime(headers, name);
    return value === undefined ? undefined : new Date(value);
  };
  return {
    message: {
      ...describe(topic.name, stored.position, wire, now),
      // What cannot be read says so by being `undefined`; the bytes are there.
      payload: await decodePayload(topic, wire).catch(() => undefined),
    },
    body: wire.body,
    topic: topic.name,
    group: spec.group,
    reason: headers[header.reason] ?? "unknown",
    error: {
      name: headers[header.errorName] ?? "Error",
      message: headers[header.errorMessage] ?? "",
      code: headers[header.errorCode],
    },
    attempts: headerCount(headers, header.attempts),
    firstFailureAt: time(header.firstFailureAt),
    deadLetteredAt: time(header.deadLetteredAt),
    redrives: headerCount(headers, header.redrives),
  };
}

/** The message as it was, its attempts reset, with a note that it was redriven. */
function redriven(message: WireMessage, letter: DeadLetter): WireMessage {
  const reset = [
    ...deadLetterHeaders,
    header.failures,
    header.redeliveries,
    header.firstFailureAt,
    header.notBefore,
  ];
  return {
    ...message,
    headers: patchHeaders(message.headers, {
      ...Object.fromEntries(reset.map((name) => [name, undefined])),
      [header.redrives]: String(letter.redrives + 1),
    }),
  };
}
