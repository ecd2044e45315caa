/** UUIDv7 (RFC 9562): 48 bits of milliseconds, then randomness. Sorts by time, which keeps database indexes compact. */

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
  let counter = 0;
  const pool = new Uint8Array(8 * 256);
  let used = pool.length;
  return () => {
    const time = now();
    if (time > last) {
      last = time;
      counter = 0;
    } else if (++counter > 0xfff) {
      last += 1;
      counter = 0;
    }
    if (used === pool.length) {
      fill(pool);
      used = 0;
    }
    const random = pool.subarray(used, (used += 8));
    return format(last, counter, random);
  };
}

function format(time: number, counter: number, random: Uint8Array): string {
  const timeHex = time.toString(16).padStart(12, "0");
  const counterHex = counter.toString(16).padStart(3, "0");
  const variant = hex[((random[0] ?? 0) & 0x3f) | 0x80];
  let tail = "";
  for (let i = 2; i < 8; i++) tail += hex[random[i] ?? 0];
  return `${timeHex.slice(0, 8)}-${timeHex.slice(8)}-7${counterHex}-${variant}${hex[random[1] ?? 0]}-${tail}`;
}
