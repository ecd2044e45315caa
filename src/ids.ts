/** Ids of messages. Ours are UUIDv7 (RFC 9562): 48 bits of milliseconds, then randomness. Sorts by time, which keeps database indexes compact. */

import { createHash } from "node:crypto";

const hex = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/**
 * Makes a generator of increasing UUIDv7s. Within one millisecond, and when the clock steps back, the 12 bits
 * after the version count upwards instead; when they run out the timestamp is moved ahead by one.
 */
export function createIdGenerator(
  now: () => number,
  fill: (bytes: Uint8Array<ArrayBuffer>) => void,
): () => string {
  let last = 0;
  let lastHex = timeText(0);
  let counter = 0;
  const pool = new Uint8Array(8 * 256);
  let used = pool.length;
  const setLast = (time: number): void => {
    last = time;
    lastHex = timeText(time);
    counter = 0;
  };
  return () => {
    const time = Math.floor(now());
    if (time > last) setLast(time);
    else if (++counter > 0xfff) setLast(last + 1);
    if (used === pool.length) {
      fill(pool);
      used = 0;
    }
    used += 8;
    return lastHex + counterText(counter) + randomText(pool, used - 8);
  };
}

/** 48 bits, and the version. */
function timeText(time: number): string {
  const text = time.toString(16).padStart(12, "0");
  return `${text.slice(0, 8)}-${text.slice(8)}-7`;
}

const hexDigit = "0123456789abcdef";

/** 12 bits. */
function counterText(counter: number): string {
  return (hexDigit[counter >> 8] ?? "") + hex[counter & 0xff];
}

/** 62 bits, from eight bytes, after the variant. */
function randomText(bytes: Uint8Array, at: number): string {
  const byte = (i: number): string => hex[bytes[at + i] ?? 0] ?? "";
  const variant = hex[((bytes[at] ?? 0) & 0x3f) | 0x80];
  return `-${variant}${byte(1)}-${byte(2)}${byte(3)}${byte(4)}${byte(5)}${byte(6)}${byte(7)}`;
}

/** Longest id, in UTF-16 units. */
export const idLimit = 255;

// oxlint-disable-next-line no-control-regex -- control characters are what is looked for
const controls = /[\u0000-\u001f\u007f]/u;

/** Whether `text` may be an id or a key: well-formed, without control characters. */
export function isIdText(text: string): boolean {
  return text.isWellFormed() && !controls.test(text);
}

/**
 * An id somebody else chose, as one that may be used: itself, or, when it is too long or not printable, its beginning with a
 * hash of all of it. Two different ones must not become equal, or one message would be taken for a duplicate of the other.
 */
export function toUsableId(foreign: string): string {
  if (foreign.length <= idLimit && isIdText(foreign)) return foreign;
  const hash = createHash("sha256").update(foreign, "utf16le").digest("hex");
  const readable = foreign.slice(0, idLimit - hash.length - 1).toWellFormed();
  return `${Array.from(readable, (char) => (controls.test(char) ? "?" : char)).join("")}~${hash}`;
}
