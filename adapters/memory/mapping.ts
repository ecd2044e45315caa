/** There is no wire; a message only has to be safe from later changes on either side. */
import { type WireMessage, headerMap } from "../../src/spi.ts";

export function copyMessage(message: WireMessage): WireMessage {
  return {
    attributes: Object.freeze(headerMap(message.attributes)),
    headers: Object.freeze(headerMap(message.headers)),
    key: message.key,
    body: message.body === null ? null : new Uint8Array(message.body),
  };
}
