/** What settles, as scripts. All begin with `KEYS` stream, owner; `ARGV` group, consumer, ownership; see `standing`. */
import { bury } from "./dead-letters.ts";
import { settle, standing, standings } from "./lua.ts";
import { type Script, script } from "./script.ts";

/** Who holds entries that were given back: nobody reads as this consumer, everybody takes from it. */
export const releasedConsumer = "postrider-released";

/** `ARGV[4…6]` first id, last id, and how many of this consumer's lie between; `ARGV[7…]` ids. */
export const ackScript: Script = script(
  "acknowledging",
  `${standings}${settle}
local ours, answers = {}, standings(7, ARGV[4], ARGV[5], ARGV[6])
for i, answer in ipairs(answers) do
  if answer == 1 then ours[#ours + 1] = ARGV[i + 6] end
end
if #ours > 0 then settle(ours) end
return answers`,
);

/** `KEYS[3]` delayed, `KEYS[4]` bodies; `ARGV` id (empty: nothing to acknowledge), member, delay, entry. */
export const deferScript: Script = script(
  "deferring",
  `${standing}${settle}
if ARGV[4] ~= '' then
  local answer = standing(ARGV[4])
  if answer ~= 1 then return {answer} end
end
local time = redis.call('TIME')
local due = time[1] * 1000 + math.ceil(time[2] / 1000) + tonumber(ARGV[6])
local body = {}
for i = 7, #ARGV do body[i - 6] = ARGV[i] end
redis.call('HSET', KEYS[4], ARGV[5], cmsgpack.pack(body))
redis.call('ZADD', KEYS[3], due, ARGV[5])
if ARGV[4] ~= '' then settle({ARGV[4]}) end
return {1}`,
);

/** `KEYS[3]` letters, `KEYS[4]` index; `ARGV` id (empty: nothing to acknowledge), message id, entry. */
export const deadLetterScript: Script = script(
  "dead-lettering",
  `${standing}${settle}${bury}
if ARGV[4] ~= '' then
  local answer = standing(ARGV[4])
  if answer ~= 1 then return {answer} end
end
bury(KEYS[3], KEYS[4], ARGV[5], unpack(ARGV, 6))
if ARGV[4] ~= '' then settle({ARGV[4]}) end
return {1}`,
);

/**
 * Given back is: pending for the consumer that is nobody, or for its partition, idle since 1970, and the hand-over not
 * counted. The entry keeps its place, so that order is kept where there is one. `ARGV[4]` that consumer, `ARGV[5…]` ids.
 * Answers 2 when the entry was deleted.
 */
export const releaseScript: Script = script(
  "giving back",
  `${standing}
local answers = {}
for i = 5, #ARGV do
  local answer, count = standing(ARGV[i])
  if answer == 1 then
    local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[4], 0, ARGV[i], 'TIME', 1, 'RETRYCOUNT', math.max(0, count - 1), 'JUSTID')
    if not claimed[1] then answer = 2 end
  end
  answers[i - 4] = answer
end
return answers`,
);

/**
 * A claim by the consumer that has it already: its lease starts again. `ARGV` as for acknowledging. Answers 2 when the entry
 * was deleted.
 */
export const extendScript: Script = script(
  "extending leases",
  `${standings}
local ours, at, answers = {}, {}, standings(7, ARGV[4], ARGV[5], ARGV[6])
for i, answer in ipairs(answers) do
  if answer == 1 then
    ours[#ours + 1] = ARGV[i + 6]
    at[ARGV[i + 6]] = i
    answers[i] = 2
  end
end
if #ours > 0 then
  ours[#ours + 1] = 'JUSTID'
  for _, id in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ours))) do
    if id then answers[at[id]] = 1 end
  end
end
return answers`,
);

/** An entry whose only copy is ours goes to the group's own stream. `KEYS[3]` that stream; `ARGV[4…]` entry. */
export const addScript: Script = script(
  "giving back",
  `redis.call('XADD', KEYS[3], '*', unpack(ARGV, 4)) return {1}`,
);

/**
 * Everything of a consumer is given back, and the consumer removed. `KEYS` stream; `ARGV` group, consumer, and the one that is
 * nobody. Without this check of what is pending, `DELCONSUMER` would lose it.
 */
export const leaveScript: Script = script(
  "leaving the group",
  `
repeat
  local found = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 500, ARGV[2])
  for _, entry in ipairs(found) do
    local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, entry[1], 'TIME', 1, 'RETRYCOUNT', math.max(0, entry[4] - 1), 'JUSTID')
    if not claimed[1] then redis.call('XACK', KEYS[1], ARGV[1], entry[1]) end
  end
until #found == 0
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1`,
);
