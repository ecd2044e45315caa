/** Reading some partitions of an ordered group, as one script. */
import type { ReadEntry, Source } from "./entry.ts";
import { moveDue } from "./lua.ts";
import type { Grant } from "./membership.ts";
import { partitioning, queued, queuedIdleMs } from "./partitions.ts";
import { type CountedEntry, counted } from "./pending.ts";
import { type Argument, type Script, script } from "./script.ts";

/**
 * `KEYS` own, main, delayed, bodies, strays, then the owner of each partition to read; `ARGV` group, number of partitions,
 * credit, then for each partition its number, ownership, and, of either stream, from where and whether what is out is to be
 * handed over and counted again ("1"; else it is handed over uncounted).
 *
 * First what is queued for these partitions, to each an equal part of the credit and then the rest of it; what is left of the
 * credit, from what nobody has read: that is handed over or queued, each entry by its partition. The group's own stream comes
 * before everybody's. With nothing found, it says up to where the group has read.
 *
 * Answers the milliseconds until a deferred copy is due, what kept one from being moved, the count of strays, how many entries
 * were queued for others, the last entries read, and for each partition whether it is still owned, and of either stream the
 * entries, the last of them, whether that is all, and how many had been deleted.
 */
export const takeScript: Script = script(
  "reading in order",
  `
local partitions, credit = tonumber(ARGV[2]), tonumber(ARGV[3])
${partitioning}${moveDue}
local function claim(stream, partition, ids, ...)
  local arguments = {stream, ARGV[1], consumerOf(partition), 0}
  for _, id in ipairs(ids) do arguments[#arguments + 1] = id end
  for _, argument in ipairs({...}) do arguments[#arguments + 1] = argument end
  return redis.call('XCLAIM', unpack(arguments))
end

local all, slots, byNumber = {}, {}, {}
for k = 6, #KEYS do
  local at = 4 + (k - 6) * 6
  local slot = {owned = redis.call('GET', KEYS[k]) == ARGV[at + 1] and 1 or 0, partition = tonumber(ARGV[at])}
  for s = 1, 2 do
    slot[s] = {from = ARGV[at + 2 * s], recount = ARGV[at + 2 * s + 1] == '1', ended = 0, deleted = 0, entries = {}}
  end
  all[#all + 1] = slot
  if slot.owned == 1 then
    slots[#slots + 1] = slot
    byNumber[slot.partition] = slot
  end
end

local function read(slot, s, limit)
  local place, stream = slot[s], KEYS[s]
  if place.ended == 1 or limit < 1 then return end
  local found = redis.call('XPENDING', stream, ARGV[1], place.from, '+', limit, consumerOf(slot.partition))
  local anew, fields = {}, {}
  for _, pending in ipairs(found) do
    if place.recount or pending[3] > ${queuedIdleMs} then
      anew[#anew + 1] = pending[1]
      pending[4] = pending[4] + 1
    else
      local claimed = claim(stream, slot.partition, {pending[1]}, 'RETRYCOUNT', pending[4])[1]
      if claimed then fields[claimed[1]] = claimed[2] end
    end
  end
  if #anew > 0 then
    for _, claimed in ipairs(claim(stream, slot.partition, anew)) do
      if claimed then fields[claimed[1]] = claimed[2] end
    end
  end
  for _, pending in ipairs(found) do
    local id = pending[1]
    if fields[id] then
      place.entries[#place.entries + 1] = {id, fields[id], pending[4]}
    else
      redis.call('XACK', stream, ARGV[1], id)
      place.deleted = place.deleted + 1
    end
    place.from = '(' .. id
  end
  credit = credit - #found
  if #found < limit then place.ended = 1 end
end

local queuedCount = 0
local function route(s)
  local stream = KEYS[s]
  local reader = partitions == 1 and consumerOf(0) or 'postrider-router'
  local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], reader, 'COUNT', credit, 'STREAMS', stream, '>')
  if not found then return end
  local out, kept = {}, {}
  for _, entry in ipairs(found[1][2]) do
    local partition = partitionOf(entry[1], entry[2])
    local slot, list = byNumber[partition], kept
    if slot then
      local place = slot[s]
      place.entries[#place.entries + 1] = {entry[1], entry[2], 1}
      place.from = '(' .. entry[1]
      credit = credit - 1
      list = out
    else
      queuedCount = queuedCount + 1
    end
    list[partition] = list[partition] or {}
    table.insert(list[partition], entry[1])
  end
  if partitions == 1 then return end
  for partition, ids in pairs(out) do claim(stream, partition, ids, 'JUSTID') end
  for partition, ids in pairs(kept) do claim(stream, partition, ids, ${queued}, 'RETRYCOUNT', 0, 'JUSTID') end
end

local due, trouble = moveDue(KEYS[3], KEYS[4], KEYS[1])
local before = credit
local part = math.ceil(credit / math.max(1, #slots))
for s = 1, 2 do
  for _, slot in ipairs(slots) do read(slot, s, math.min(part, credit)) end
end
for s = 1, 2 do
  for _, slot in ipairs(slots) do read(slot, s, credit) end
end
for s = 1, 2 do
  if credit > 0 and #slots > 0 then route(s) end
end

local last = {'', ''}
if credit == before and queuedCount == 0 then
  for s = 1, 2 do
    for _, item in ipairs(redis.call('XINFO', 'GROUPS', KEYS[s])) do
      local of = {}
      for i = 1, #item, 2 do of[item[i]] = item[i + 1] end
      if of['name'] == ARGV[1] then last[s] = of['last-delivered-id'] end
    end
  end
end

local answer = {due, trouble, tonumber(redis.call('GET', KEYS[5]) or 0), queuedCount, last[1], last[2]}
for _, slot in ipairs(all) do
  local places = {}
  for s = 1, 2 do places[s] = {slot[s].entries, slot[s].from, slot[s].ended, slot[s].deleted} end
  answer[#answer + 1] = {slot.owned, places[1], places[2]}
end
return answer`,
);

/** The streams, in the order the script has them. */
const sources: readonly Source[] = ["own", "main"];

/** Where reading one stream of a partition has got to. */
interface Place {
  readonly from: string;
  /** What is out was handed over by somebody else before. */
  readonly recount: boolean;
}

/** What is read of one partition. */
export interface Slot {
  readonly grant: Grant;
  readonly own: Place;
  readonly main: Place;
}

export const slotArguments = ({ grant: { partition, claim }, own, main }: Slot): readonly Argument[] => [
  partition,
  claim.ownership,
  ...[own, main].flatMap(({ from, recount }) => [from, recount ? 1 : 0]),
];

type PlaceAnswer = readonly [entries: readonly CountedEntry[], from: Buffer, ended: number, deleted: number];

export type SlotAnswer = readonly [owned: number, own: PlaceAnswer, main: PlaceAnswer];

export type TakeAnswer = readonly [
  due: number,
  trouble: Buffer,
  strays: number,
  queued: number,
  lastOfOwn: Buffer,
  lastOfMain: Buffer,
  ...slots: SlotAnswer[],
];

/** Where reading goes on, and what was read. */
export interface Taken {
  readonly owned: boolean;
  readonly next: Slot;
  readonly entries: readonly ReadEntry[];
  readonly deleted: number;
}

export function toTaken(slot: Slot, [owned, ...places]: SlotAnswer): Taken {
  const { grant } = slot;
  const [own, main] = places.map(([, from, ended], i): Place => {
    const { recount } = slot[sources[i] as Source];
    return { from: from.toString(), recount: recount && ended === 0 };
  }) as [Place, Place];
  return {
    owned: owned === 1,
    next: { grant, own, main },
    entries: places.flatMap(([entries], i) =>
      entries.map((entry) => counted(sources[i] as Source, grant.claim, entry)),
    ),
    deleted: places.reduce((sum, [, , , deleted]) => sum + deleted, 0),
  };
}
