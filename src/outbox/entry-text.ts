/** An outbox entry as one text, for where it only waits. */
import { isUtf8 } from "node:buffer";
import { headerMap } from "../headers.ts";
import type { OutboxEntry } from "../store.ts";

/** Readable where the body is text. */
export function textOfEntry({ destination, durability, message }: OutboxEntry): string {
  const { body, ...rest } = message;
  const bytes = body === null ? null : Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const encoding = bytes === null || isUtf8(bytes) ? "utf8" : "base64";
  return JSON.stringify({
    destination,
    durability,
    message: rest,
    encoding,
    body: bytes?.toString(encoding) ?? null,
  });
}

export function entryOfText(text: string): OutboxEntry {
  const { destination, durability, message, encoding, body } = JSON.parse(text) as OutboxEntry & {
    readonly encoding: "utf8" | "base64";
    readonly body: string | null;
  };
  return {
    destination,
    durability,
    message: {
      attributes: headerMap(message.attributes),
      headers: headerMap(message.headers),
      key: message.key,
      body: body === null ? null : Buffer.from(body, encoding),
    },
  };
}
