/**
 * Messages of an ordered group that are pending outside of its partitions: of a consumer from when it was read without order,
 * or of a partition from when there was another number of them. They are put where they belong, with their counts.
 */
import type { RedisConnection } from "./connection.ts";
import type { GroupKeys } from "./keys.ts";
import { partitioning, queued } from "./partitions.ts";
import { run, script } from "./script.ts";

/** `KEYS` stream, strays; `ARGV` group, number of partitions, how long one must have been idle, how many at most. */
const adoptScript = script(
  "putting messages into their partitions",
  `
local partitions, left = tonumber(ARGV[2]), tonumber(ARGV[4])
${partitioning}
local deleted, said = 0, false
for _, item in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local of = {}
  for i = 1, #item, 2 do of[item[i]] = item[i + 1] end
  if of['pending'] > 0 and left > 0 and string.match(of['name'], '^postrider%-%d+%-of%-(%d+)$') ~= ARGV[2] then
    for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', left, of['name'])) do
      local id = pending[1]
      local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
      if entry then
        if not said then redis.call('INCR', KEYS[2]) said = true end
        local to = consumerOf(partitionOf(id, entry[2]))
        redis.call('XCLAIM', KEYS[1], ARGV[1], to, 0, id, ${queued}, 'RETRYCOUNT', pending[4], 'JUSTID')
      else
        redis.call('XACK', KEYS[1], ARGV[1], id)
        deleted = deleted + 1
      end
      left = left - 1
    end
  end
end
return {left, deleted}`,
);

/** So many in one script. */
const atOnce = 100;

/** Resolves with how many entries were found deleted. Rejects with `RequestError`. */
export async function adoptStrays(
  connection: RedisConnection,
  keys: GroupKeys,
  group: string,
  partitions: number,
  idleMs: number,
): Promise<number> {
  let found = 0;
  for (const stream of [keys.own, keys.main]) {
    for (let left = 0; left === 0;) {
      const answer = await run(
        connection.commands,
        adoptScript,
        [stream, keys.strays],
        [group, partitions, Math.ceil(idleMs), atOnce],
      );
      const [rest, deleted] = answer as readonly [number, number];
      left = rest;
      found += deleted;
    }
  }
  return found;
}
