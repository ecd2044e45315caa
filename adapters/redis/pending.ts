/** Entries that were handed over before: whose consumer has gone, that were given back, or whose hand-over got lost. */
import type { RedisConnection } from "./connection.ts";
import type { Entry, ReadEntry, Source } from "./entry.ts";
import type { GroupKeys } from "./keys.ts";
import { standing } from "./lua.ts";
import { run, script } from "./script.ts";

/**
 * Claims what is pending, in order. `ARGV[4]` from where, `ARGV[5]` how many, `ARGV[6]` of which consumer (empty: of all),
 * `ARGV[7]` "1" when one's own count as another hand-over. Answers whether the ownership still holds, where to go on
 * (empty: at the end), how many entries were deleted, and the entries with their counts.
 */
const sweepScript = script(
  "taking over",
  `${standing}
if not owned then return {0, '', 0, {}} end
local found
if ARGV[6] == '' then found = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[4], '+', ARGV[5])
else found = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[4], '+', ARGV[5], ARGV[6]) end
local entries, deleted, cursor = {}, 0, ''
for _, pending in ipairs(found) do
  local count = pending[4]
  if pending[2] ~= ARGV[2] or ARGV[7] == '1' then count = count + 1 end
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1], 'RETRYCOUNT', count)
  if claimed[1] then
    entries[#entries + 1] = {pending[1], claimed[1][2], count}
  else
    redis.call('XACK', KEYS[1], ARGV[1], pending[1])
    deleted = deleted + 1
  end
end
if #found == tonumber(ARGV[5]) then cursor = '(' .. found[#found][1] end
return {1, cursor, deleted, entries}`,
);

/** An entry with how often it was handed over. */
export type CountedEntry = readonly [id: Buffer, fields: readonly Buffer[] | null, count: number];

export interface SweepQuery {
  readonly source: Source;
  /** Only what is pending for this consumer; `undefined`: for all. */
  readonly of?: string | undefined;
  /** Where to begin: `"-"`, or the cursor of the sweep before. */
  readonly cursor: string;
  readonly limit: number;
  /** Whether a claim of what this consumer has already is another hand-over. */
  readonly recount: boolean;
}

export interface Sweep {
  /** The group is read by somebody else now: nothing was claimed. */
  readonly disowned: boolean;
  /** Where to go on; `undefined` at the end. */
  readonly cursor: string | undefined;
  readonly deleted: number;
  readonly entries: readonly ReadEntry[];
}

export interface ReaderIdentity {
  readonly keys: GroupKeys;
  readonly group: string;
  readonly consumer: string;
}

/** Claims pending entries for `consumer`. Rejects with `RequestError`. */
export async function sweep(
  connection: RedisConnection,
  { keys, group, consumer }: ReaderIdentity,
  ownership: string,
  { source, of = "", cursor, limit, recount }: SweepQuery,
): Promise<Sweep> {
  const [held, next, deleted, entries] = (await run(
    connection.commands,
    sweepScript,
    [keys[source], keys.owner],
    [group, consumer, ownership, cursor, limit, of, recount ? 1 : 0],
  )) as readonly [number, Buffer, number, readonly CountedEntry[]];
  return {
    disowned: held === 0,
    cursor: next.length === 0 ? undefined : next.toString(),
    deleted,
    entries: entries.map((entry) => counted(source, entry)),
  };
}

export function counted(source: Source, [id, fields, count]: CountedEntry): ReadEntry {
  return { source, id: id.toString(), fields: fields ?? [], redeliveries: Math.max(0, count - 1) };
}

/** Entries of a first hand-over. */
export function fresh(source: Source, entries: readonly Entry[]): ReadEntry[] {
  return entries.map(([id, fields]) => ({
    source,
    id: id.toString(),
    fields: fields ?? [],
    redeliveries: 0,
  }));
}
