/** Streams and groups: made when they are missing, trimmed when nobody needs what is in them. */
import type { GroupSpec, TopicSpec } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import { groupKeys, topicKey } from "./keys.ts";
import { run, script } from "./script.ts";

/** `KEYS` the stream. Answers what is there. */
const checkTopicScript = script("declaring the topic", `return redis.call('TYPE', KEYS[1])['ok']`);

/** `KEYS` main, own; `ARGV` group. Both groups begin at 0: what was published before they were made is theirs too. */
const createScript = script(
  "declaring the group",
  `
for _, stream in ipairs(KEYS) do
  local made = redis.pcall('XGROUP', 'CREATE', stream, ARGV[1], '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
end
return 1`,
);

/**
 * Removes what every group has settled: all before the oldest pending entry, or before the last one read where none is
 * pending. Never by length, which would remove what somebody still needs. And drops consumers of this group that are gone
 * and have nothing pending, in the same step: with something pending, that would be lost. `KEYS` the stream; `ARGV` group,
 * and how long a consumer must have been idle.
 */
const trimScript = script(
  "trimming",
  `
local function fields(list)
  local map = {}
  for i = 1, #list, 2 do map[list[i]] = list[i + 1] end
  return map
end
local function before(a, b)
  local at, as = string.match(a, '(%d+)-(%d+)')
  local bt, bs = string.match(b, '(%d+)-(%d+)')
  -- As text: numbers of 64 bits do not fit in Lua's.
  if at == bt then at, bt = as, bs end
  if #at ~= #bt then return #at < #bt end
  return at < bt
end
local oldest
for _, item in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = fields(item)
  local needed = group['last-delivered-id']
  if group['pending'] > 0 then needed = redis.call('XPENDING', KEYS[1], group['name'])[2] end
  if not oldest or before(needed, oldest) then oldest = needed end
end
for _, item in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = fields(item)
  if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
  end
end
if not oldest or oldest == '0-0' then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', oldest)`,
);

/** Longer than any consumer goes without reading, unless it is gone. */
const goneAfterMs = 10 * 60_000;

/** Makes sure that the topic's key is free or a stream; publishing makes it. Rejects with `ERR_TOPOLOGY`. */
export async function declareTopic(connection: RedisConnection, { name }: TopicSpec): Promise<void> {
  const key = topicKey(connection.prefix, name);
  const type = String(await run(connection.commands, checkTopicScript, [key], []));
  if (type !== "none" && type !== "stream") throw connection.wrongType(key, type);
}

/** Makes the streams and the group. Rejects with `ERR_TOPOLOGY` when a key is something else. */
export async function declareGroup(connection: RedisConnection, spec: GroupSpec): Promise<void> {
  const { main, own } = groupKeys(connection.prefix, spec);
  await run(connection.commands, createScript, [main, own], [spec.group]);
}

/** Removes what no group needs any more, and consumers that have gone. Resolves with how many entries that were. */
export async function trim(
  connection: RedisConnection,
  spec: GroupSpec,
  goneAfter: number = goneAfterMs,
): Promise<number> {
  const { main, own } = groupKeys(connection.prefix, spec);
  let removed = 0;
  for (const stream of [main, own])
    removed += Number(await run(connection.commands, trimScript, [stream], [spec.group, goneAfter]));
  return removed;
}
