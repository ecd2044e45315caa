/** Who is alive of an ordered group and owns which partition, as scripts. */
import { type Script, script } from "./script.ts";

/**
 * `KEYS` partitions, members, epoch, own, then the owner of each partition; `ARGV` member, lease, number of partitions, then
 * for each partition the ownership of this member or '', and "1" when it is given up. Renews what it has, and takes what is
 * free up to its share. Answers the number of partitions the group has; when that is the one asked for, then the share, and
 * the ownership of each partition that is this member's now.
 *
 * The number of partitions may change while nobody owns one. Who has more comes first when shares are rounded up, so that
 * nothing moves without need. On a full server nothing is taken, and what there is goes on.
 */
export const balanceScript: Script = script(
  "sharing out the partitions",
  `
local count = tonumber(ARGV[3])
local known = tonumber(redis.call('GET', KEYS[1]) or 0)
if known ~= count then
  for i = 0, known - 1 do
    if redis.call('EXISTS', KEYS[4] .. '--owner-' .. i .. '-of-' .. known) == 1 then return {known} end
  end
  redis.call('SET', KEYS[1], count)
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.pcall('ZADD', KEYS[2], now + ARGV[2], ARGV[1])

local owners, counts = {}, {}
for i = 1, count do
  local key, ownership = KEYS[4 + i], ARGV[2 + 2 * i]
  local owner = redis.call('GET', key)
  if owner and owner == ownership and ARGV[3 + 2 * i] == '1' then
    redis.call('DEL', key)
    owner = false
  end
  owners[i] = owner
  if owner then
    local name = string.match(owner, '^%d+:(.*)$') or ''
    counts[name] = (counts[name] or 0) + 1
    -- An earlier answer may have been lost on the way.
    if name == ARGV[1] then redis.call('PEXPIRE', key, ARGV[2]) end
  end
end

local members, isKnown = redis.call('ZRANGE', KEYS[2], 0, -1), false
for _, name in ipairs(members) do isKnown = isKnown or name == ARGV[1] end
if not isKnown then members[#members + 1] = ARGV[1] end
table.sort(members, function(a, b)
  local of, ofOther = counts[a] or 0, counts[b] or 0
  if of ~= ofOther then return of > ofOther end
  return a < b
end)
local share = math.floor(count / #members)
for i = 1, count % #members do
  if members[i] == ARGV[1] then share = share + 1 end
end

local answer, free = {count, share}, share - (counts[ARGV[1]] or 0)
-- Who has something goes on with it; who has nothing is told why.
local take = counts[ARGV[1]] and redis.pcall or redis.call
for i = 1, count do
  if not owners[i] and ARGV[3 + 2 * i] ~= '1' and free > 0 then
    local epoch = take('INCR', KEYS[3])
    local ownership = type(epoch) == 'number' and epoch .. ':' .. ARGV[1]
    local set = ownership and take('SET', KEYS[4 + i], ownership, 'PX', ARGV[2])
    if set and not set.err then
      owners[i], free = ownership, free - 1
    else
      free = 0
    end
  end
  local name = owners[i] and string.match(owners[i], '^%d+:(.*)$')
  answer[2 + i] = name == ARGV[1] and owners[i] or ''
end
return answer`,
);

/** `KEYS` members, then owners; `ARGV` member, then the ownership of each. */
export const leaveScript: Script = script(
  "leaving the group",
  `
redis.call('ZREM', KEYS[1], ARGV[1])
for i = 2, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[i] then redis.call('DEL', KEYS[i]) end
end
return 1`,
);
