/** Entries with counts, and those whose hand-over got lost. */
import type { RedisConnection } from "./connection.ts";
import type { Claim, ReadEntry, Source } from "./entry.ts";
import type { GroupKeys } from "./keys.ts";
import { run, script } from "./script.ts";

/**
 * Claims what is pending for a consumer again, uncounted. `KEYS` stream; `ARGV` group, consumer, from where, how many. Answers
 * where to go on (empty: at the end), how many entries were deleted, and the entries with their counts.
 */
const sweepScript = script(
  "looking for what was lost on the way",
  `
local found = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], '+', ARGV[4], ARGV[2])
local entries, deleted, cursor = {}, 0, ''
for _, pending in ipairs(found) do
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1], 'RETRYCOUNT', pending[4])
  if claimed[1] then
    entries[#entries + 1] = {pending[1], claimed[1][2], pending[4]}
  else
    redis.call('XACK', KEYS[1], ARGV[1], pending[1])
    deleted = deleted + 1
  end
end
if #found == tonumber(ARGV[4]) then cursor = '(' .. found[#found][1] end
return {cursor, deleted, entries}`,
);

/** An entry with how often it was handed over. */
export type CountedEntry = readonly [id: Buffer, fields: readonly Buffer[] | null, count: number];

/** What is pending for a claim's consumer. */
export interface Sweep {
  readonly deleted: number;
  readonly entries: readonly ReadEntry[];
}

/** In one script. */
const atOnce = 100;

/** Everything that is pending for a consumer in one of the group's streams, in order. Rejects with `RequestError`. */
export async function sweep(
  connection: RedisConnection,
  keys: GroupKeys,
  group: string,
  claim: Claim,
  source: Source,
): Promise<Sweep> {
  const entries: ReadEntry[] = [];
  let count = 0;
  for (let cursor = "-"; cursor !== "";) {
    const answer = await run(
      connection.commands,
      sweepScript,
      [keys[source]],
      [group, claim.consumer, cursor, atOnce],
    );
    const [next, deleted, found] = answer as readonly [Buffer, number, readonly CountedEntry[]];
    cursor = next.toString();
    count += deleted;
    entries.push(...found.map((entry) => counted(source, claim, entry)));
  }
  return { deleted: count, entries };
}

export function counted(source: Source, claim: Claim, [id, fields, count]: CountedEntry): ReadEntry {
  return { claim, source, id: id.toString(), fields: fields ?? [], redeliveries: Math.max(0, count - 1) };
}
