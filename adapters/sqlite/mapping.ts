/** Messages as columns: attributes and headers are JSON text, the body its very bytes. */
import { type Headers, type WireMessage, headerMap, restored, storable } from "../../src/spi.ts";

/** The columns every table with messages has. */
export interface MessageColumns {
  readonly key: string | null;
  readonly attributes: string;
  readonly headers: string;
  readonly body: Uint8Array | null;
}

export function toColumns(message: WireMessage): MessageColumns {
  return {
    key: message.key === undefined ? null : storable(message.key),
    attributes: headersToText(message.attributes),
    headers: headersToText(message.headers),
    body: message.body,
  };
}

export function fromColumns(columns: MessageColumns): WireMessage {
  return {
    attributes: headersFromText(columns.attributes),
    headers: headersFromText(columns.headers),
    key: columns.key === null ? undefined : restored(columns.key),
    body: columns.body,
  };
}

export function headersToText(headers: Headers): string {
  return JSON.stringify(headers);
}

function headersFromText(text: string): Headers {
  return Object.freeze(headerMap(JSON.parse(text) as Headers));
}
