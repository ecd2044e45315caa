/** Dead letters of a group: a stream, and an index that keeps them one per message. */
import { type DeadLetterCursor, type GroupSpec, type StoredDeadLetter, idOf } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import type { Entry } from "./entry.ts";
import { groupKeys } from "./keys.ts";
import type { Link } from "./link.ts";
import { type Fields, decodeMessage } from "./mapping.ts";
import { run, script } from "./script.ts";

/** `bury(letters, ids, id, …)` adds the values that follow as a letter, unless there is one of that message. */
export const bury = `
local function bury(letters, ids, id, ...)
  local known = redis.call('HGET', ids, id)
  -- The stream may have been deleted without its index.
  if known and #redis.call('XRANGE', letters, known, known) > 0 then return end
  local at = redis.call('XADD', letters, '*', ...)
  redis.call('HSET', ids, id, at)
end`;

/** `KEYS` letters, index; `ARGV` message id, then the entry. */
const addScript = script(
  "dead-lettering",
  `${bury}\nbury(KEYS[1], KEYS[2], ARGV[1], unpack(ARGV, 2))\nreturn 1`,
);

/** `KEYS` letters, index; `ARGV` place and message id in turn. */
const removeScript = script(
  "removing dead letters",
  `
for i = 1, #ARGV, 2 do
  redis.call('XDEL', KEYS[1], ARGV[i])
  if redis.call('HGET', KEYS[2], ARGV[i + 1]) == ARGV[i] then redis.call('HDEL', KEYS[2], ARGV[i + 1]) end
end
return 1`,
);

/** Letters may be as large as messages: what is read at once is kept to about this. */
const pageBytes = 8 * 1_048_576;

/** Adds a dead letter that comes from elsewhere than the group's streams, such as an outbox. Rejects with `RequestError`. */
export async function addDeadLetter(
  link: Link,
  prefix: string,
  spec: GroupSpec,
  id: string,
  fields: Fields,
): Promise<void> {
  const { dead, deadIds } = groupKeys(prefix, spec);
  await run(link, addScript, [dead, deadIds], [id, ...fields]);
}

/** A cursor over what is there now. */
export async function openCursor(connection: RedisConnection, spec: GroupSpec): Promise<DeadLetterCursor> {
  const { dead, deadIds } = groupKeys(connection.prefix, spec);
  const range = (command: string, from: string, to: string, count: number): Promise<readonly Entry[]> =>
    connection.commands.request(
      "reading dead letters",
      (redis) => redis.callBuffer(command, [dead, from, to, "COUNT", count]) as Promise<readonly Entry[]>,
    );
  const last = (await range("XREVRANGE", "+", "-", 1))[0]?.[0].toString();
  let from = "-";
  let averageBytes = pageBytes;

  return {
    async read(limit) {
      if (last === undefined) return [];
      const count = Math.max(1, Math.min(limit, Math.floor(pageBytes / averageBytes)));
      const entries = await range("XRANGE", from, last, count);
      const latest = entries.at(-1);
      if (latest === undefined) return [];
      from = `(${latest[0].toString()}`;
      const bytes = entries.reduce((sum, [, fields]) => sum + sizeOf(fields), 0);
      // Grows slowly, so that a page of large letters after small ones is not read all at once.
      averageBytes = Math.max(bytes / entries.length, averageBytes / 8);
      return entries.map(toStored);
    },
    async remove(letters) {
      const args = letters.flatMap(({ token, position, message }) => [
        token as string,
        idOf(spec.topic.name, position, message),
      ]);
      for (let i = 0; i < args.length; i += 1_000)
        await run(connection.commands, removeScript, [dead, deadIds], args.slice(i, i + 1_000));
    },
    close: () => Promise.resolve(),
  };
}

function toStored([id, fields]: Entry): StoredDeadLetter {
  const position = id.toString();
  return { message: decodeMessage(fields ?? []), position, token: position };
}

function sizeOf(fields: readonly Buffer[] | null): number {
  return fields?.reduce((sum, value) => sum + value.length, 64) ?? 64;
}
