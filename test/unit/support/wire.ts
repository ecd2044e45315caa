import { headerMap } from "../../../src/headers.ts";
import type { WireMessage } from "../../../src/message.ts";

export interface WireParts {
  readonly attributes?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly key?: string | undefined;
  /** Text is written as UTF-8. Default `{}`. */
  readonly body?: string | Uint8Array | null;
}

/** A message as a broker may carry it, sent by anybody. */
export function wire({ attributes = {}, headers = {}, key, body = "{}" }: WireParts = {}): WireMessage {
  return {
    attributes: headerMap(attributes),
    headers: headerMap(headers),
    key,
    body: typeof body === "string" ? new TextEncoder().encode(body) : body,
  };
}
