/** A call of many messages as the scripts that carry it out. */
import type { OutgoingMessage } from "../../src/spi.ts";
import { directSeenKeys, groupKeys, seenKeys, topicKey } from "./keys.ts";
import { encodeMessage, maxValues } from "./mapping.ts";

/** One script runs for so long that nobody waits for it noticeably. */
const maxScriptBytes = 1_048_576;

/** A message on its way, with its place in the call. */
export interface Sending {
  readonly index: number;
  readonly outgoing: OutgoingMessage;
  readonly fields: readonly (string | Buffer)[];
  /** What remembers it for the dedupe window. */
  readonly keys: readonly string[];
}

/** Messages of one call that go to one stream, in order. */
export interface Part {
  readonly stream: string;
  readonly confirmed: boolean;
  readonly sendings: Sending[];
  bytes: number;
}

/** A batch by what becomes of its messages. */
export interface Divided {
  readonly parts: readonly Part[];
  readonly letters: readonly Sending[];
  /** Those with more fields than a script can pass on. */
  readonly refused: readonly Sending[];
}

/** Messages by stream, as large as one script may be; those that are not waited for by themselves. */
export function divide(prefix: string, batch: readonly OutgoingMessage[]): Divided {
  const parts: Part[] = [];
  const open = new Map<string, Part>();
  const letters: Sending[] = [];
  const refused: Sending[] = [];
  batch.forEach((outgoing, index) => {
    const { destination, message, durability } = outgoing;
    const { topic, group, dead } = destination;
    const main = topicKey(prefix, topic.name);
    const stream = group === undefined ? main : groupKeys(prefix, { topic, group }).own;
    const keys = group === undefined ? seenKeys(main, message) : directSeenKeys(stream, message);
    const sending: Sending = { index, outgoing, fields: encodeMessage(message), keys };
    if (sending.fields.length > maxValues) return void refused.push(sending);
    if (dead === true) return void letters.push(sending);
    const bytes = 300 + (message.body?.byteLength ?? 0);
    const confirmed = durability !== "none";
    const lane = `${confirmed ? "!" : "?"}${stream}`;
    let part = open.get(lane);
    if (part === undefined || part.bytes + bytes > maxScriptBytes) {
      part = { stream, confirmed, sendings: [], bytes: 0 };
      open.set(lane, part);
      parts.push(part);
    }
    part.sendings.push(sending);
    part.bytes += bytes;
  });
  return { parts, letters, refused };
}
