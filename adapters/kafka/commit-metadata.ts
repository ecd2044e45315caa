/**
 * What travels beside a committed offset, in the commit's metadata: which records above it are settled already, and which
 * record was under way when its process began, so that one that kills its process is found. Kafka keeps neither.
 *
 * `pr1:<settled>:<suspect>:<narrow>`, each part possibly empty; readers ignore parts they do not know. `settled` is a bit per
 * offset, base64url, the first bit is the offset after the committed one. `suspect` is `<offset>.<count>`, `narrow` an
 * offset, both counted from the committed one, in base 36.
 */

/** A record that was the first under way in `starts` sessions, none of which ended well. */
export interface Suspect {
  readonly offset: number;
  readonly starts: number;
}

export interface CommitNotes {
  /** Settled offsets above the committed one. */
  readonly settled: Iterable<number>;
  readonly suspect: Suspect | undefined;
  /** Up to and including this offset records are handed over one at a time. */
  readonly narrowUntil: number | undefined;
}

/** What the broker takes by default (`offset.metadata.max.bytes`); measured: 4097 is refused. */
export const metadataLimit = 4_096;

const version = "pr1";
/** Room for the other parts. */
const reserved = 64;

/** The notes as text of at most `limit` characters. What does not fit is left out: those records come twice, none is lost. */
export function encodeNotes(position: number, notes: CommitNotes, limit: number = metadataLimit): string {
  const { suspect, narrowUntil } = notes;
  const map = encodeSettled(position, notes.settled, limit - reserved);
  const suspected =
    suspect === undefined ? "" : `${base36(suspect.offset - position)}.${base36(suspect.starts)}`;
  const narrow = narrowUntil === undefined || narrowUntil < position ? "" : base36(narrowUntil - position);
  if (map === "" && suspected === "" && narrow === "") return "";
  const text = [version, map, suspected, narrow].join(":");
  return text.length > limit ? "" : text;
}

/** Reads what `encodeNotes` wrote. Anything else, a foreign client's metadata for one, says nothing. */
export function decodeNotes(
  position: number,
  text: string | null | undefined,
): CommitNotes & { readonly settled: ReadonlySet<number> } {
  const [magic, map = "", suspected = "", narrow = ""] = (text ?? "").split(":");
  if (magic !== version) return { settled: new Set(), suspect: undefined, narrowUntil: undefined };
  const [offset, starts] = suspected.split(".").map(fromBase36);
  return {
    settled: new Set(decodeSettled(position, map)),
    suspect:
      offset === undefined || starts === undefined || starts < 1
        ? undefined
        : { offset: position + offset, starts },
    narrowUntil: addTo(position, fromBase36(narrow)),
  };
}

function encodeSettled(position: number, settled: Iterable<number>, limit: number): string {
  const maxBytes = Math.max(0, Math.floor((limit * 3) / 4));
  const bytes: number[] = [];
  for (const offset of settled) {
    const bit = offset - position - 1;
    if (bit < 0) continue;
    const at = Math.floor(bit / 8);
    if (at >= maxBytes) break;
    while (bytes.length <= at) bytes.push(0);
    bytes[at] = (bytes[at] as number) | (1 << (bit % 8));
  }
  return Buffer.from(bytes).toString("base64url");
}

function* decodeSettled(position: number, map: string): Generator<number> {
  for (const [at, byte] of Buffer.from(map, "base64url").entries()) {
    for (let bit = 0; bit < 8; bit += 1) if ((byte & (1 << bit)) !== 0) yield position + 1 + at * 8 + bit;
  }
}

function base36(n: number): string {
  return n.toString(36);
}

function fromBase36(text: string): number | undefined {
  return /^[0-9a-z]{1,11}$/u.test(text) ? Number.parseInt(text, 36) : undefined;
}

function addTo(position: number, delta: number | undefined): number | undefined {
  return delta === undefined ? undefined : position + delta;
}
