/** What users see of a message, and what adapters carry of it. */
import type { Headers } from "./headers.ts";

/** A message as handlers and dead letters show it. Immutable. */
export interface Message<Payload = unknown> {
  /** Unique per message, kept through retries, dead letters and redrives. */
  readonly id: string;
  readonly topic: string;
  /** Ordering key, if it has one. */
  readonly key: string | undefined;
  /** The sender's headers; without those the library adds. */
  readonly headers: Headers;
  readonly payload: Payload;
  /** CloudEvents source: the service that sent it. */
  readonly source: string;
  /** When it was sent, by the sender's clock. */
  readonly time: Date;
  readonly contentType: string | undefined;
  /** Equal for two messages that are the same thing said twice; the inbox's key when there is one. */
  readonly idempotencyKey: string | undefined;
  /** Id of the first message of the chain this one belongs to. */
  readonly correlationId: string | undefined;
  /** Id of the message whose handling sent this one. */
  readonly causationId: string | undefined;
  /** How often it was redriven from the dead letters. */
  readonly redrives: number;
  /** CloudEvents attributes not listed above, such as `subject` or `dataschema`. */
  readonly attributes: Headers;
}

/**
 * A message on the wire, as adapters carry it: CloudEvents 1.0 in binary mode. An adapter's `mapping.ts` writes the
 * attributes by its broker's binding and reads them back; it looks into none of this.
 */
export interface WireMessage {
  /** CloudEvents context attributes by their bare names: `id`, `source`, `type`, `datacontenttype`, … Empty for a foreign message. */
  readonly attributes: Headers;
  /** The sender's headers and our `pr-` ones. */
  readonly headers: Headers;
  readonly key: string | undefined;
  /** The payload's bytes, untouched. `null` is a message without a body (a Kafka tombstone). */
  readonly body: Uint8Array | null;
}
