/** Pieces that several scripts are made of. */

/**
 * Who may settle. `KEYS[1]` is the stream, `KEYS[2]` the owner's key of a partition; `ARGV[1]` the group, `ARGV[2]` the
 * consumer, `ARGV[3]` its ownership, empty in a group without order. `standing(id)` is 1 when the entry is pending for this
 * consumer, 0 when for another one (or the partition has another owner), -1 when for nobody; the second result is how often
 * it was handed over.
 */
export const standing = `
local owned = ARGV[3] == '' or redis.call('GET', KEYS[2]) == ARGV[3]
local function standing(id)
  if not owned then return 0 end
  local found = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  if found.err then
    if string.find(found.err, 'NOGROUP', 1, true) then return -1 end
    return redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  end
  if #found == 0 then return -1 end
  if found[1][2] == ARGV[2] then return 1, found[1][4] end
  return 0
end`;

/**
 * `standings(from, first, last, count)` is the standing of each of `ARGV[from…]`. They lie between `first` and `last`, where
 * this consumer has `count` entries at most: one look is enough for all that are its own (0: it looks for each by itself).
 */
export const standings: string = `${standing}
local function standings(from, first, last, count)
  local ours, answers = {}, {}
  if owned and tonumber(count) > 0 then
    local found = redis.pcall('XPENDING', KEYS[1], ARGV[1], first, last, count, ARGV[2])
    if not found.err then for _, entry in ipairs(found) do ours[entry[1]] = true end end
  end
  for i = from, #ARGV do
    local answer = 1
    if not ours[ARGV[i]] then answer = standing(ARGV[i]) end
    answers[i - from + 1] = answer
  end
  return answers
end`;

/** `settle(ids)` acknowledges. An entry that only this group reads is of no use to anybody then. */
export const settle = `
local function settle(ids)
  redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
  if #redis.call('XINFO', 'GROUPS', KEYS[1]) == 1 then redis.call('XDEL', KEYS[1], unpack(ids)) end
end`;

/**
 * `moveDue(delayed, bodies, own)` puts deferred copies that are due on the group's own stream, a hundred at most. Returns
 * the milliseconds until the next one is due (-1: there is none), and the error that stopped it, or ''.
 */
export const moveDue = `
local function moveDue(delayed, bodies, own)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, 100)
  for _, member in ipairs(due) do
    local body = redis.call('HGET', bodies, member)
    if body then
      local added = redis.pcall('XADD', own, '*', unpack(cmsgpack.unpack(body)))
      if type(added) == 'table' and added.err then return 500, added.err end
    end
    redis.call('ZREM', delayed, member)
    redis.call('HDEL', bodies, member)
  end
  local next = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if #next == 0 then return -1, '' end
  return math.max(0, math.ceil(tonumber(next[2]) - now)), ''
end`;
