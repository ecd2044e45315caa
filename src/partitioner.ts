/** Which partition a message goes to: on every broker the same as Kafka's Java client would choose, so that foreign producers agree per key. */

const seed = 0x9747b28c;
const mix = 0x5bd1e995;

/** MurmurHash2, 32 bit, with the seed Kafka's clients use. Signed, as Java has it. */
function murmur2(data: Uint8Array): number {
  const { length } = data;
  const byte = (at: number): number => data[at] as number;
  let hash = seed ^ length;
  const whole = length - (length % 4);
  for (let at = 0; at < whole; at += 4) {
    let word = byte(at) | (byte(at + 1) << 8) | (byte(at + 2) << 16) | (byte(at + 3) << 24);
    word = Math.imul(word, mix);
    word = Math.imul(word ^ (word >>> 24), mix);
    hash = Math.imul(hash, mix) ^ word;
  }
  if (length % 4 === 3) hash ^= byte(whole + 2) << 16;
  if (length % 4 >= 2) hash ^= byte(whole + 1) << 8;
  if (length % 4 >= 1) hash = Math.imul(hash ^ byte(whole), mix);
  hash = Math.imul(hash ^ (hash >>> 13), mix);
  return hash ^ (hash >>> 15);
}

/** Partition of an ordering key among `partitions`. */
export function partitionOfKey(key: string, partitions: number): number {
  return (murmur2(Buffer.from(key)) & 0x7fffffff) % partitions;
}

/** Spreads messages without a key evenly: round robin per topic, from a random start so that processes do not march in step. */
export function createSpreader(random: () => number): (topic: string, partitions: number) => number {
  const next = new Map<string, number>();
  return (topic, partitions) => {
    const turn = next.get(topic) ?? Math.floor(random() * partitions);
    next.set(topic, (turn + 1) % Number.MAX_SAFE_INTEGER);
    return turn % partitions;
  };
}
