/**
 * Reading for a group with order: one subscription reads, the others stand by. It takes over what its predecessor had
 * handed over before it reads anything new, and every read makes sure in the same step that the group is still its own.
 *
 * The unit of ownership is one group of one topic. With a stream per partition it would be one of these per partition.
 */
import type { Entry, ReadEntry, Source } from "./entry.ts";
import { moveDue } from "./lua.ts";
import { Ownership } from "./ownership.ts";
import { fresh, sweep } from "./pending.ts";
import type { Reader, ReaderContext } from "./reader.ts";
import { run, script } from "./script.ts";

/**
 * `KEYS` main, own, delayed, bodies, owner; `ARGV` group, consumer, ownership, credit. Reads the group's own stream first,
 * then everybody's. With nothing new, it says up to where the group has read.
 */
const takeScript = script(
  "reading in order",
  `${moveDue}
if redis.call('GET', KEYS[5]) ~= ARGV[3] then return {0} end
local due, trouble = moveDue(KEYS[3], KEYS[4], KEYS[2])
local credit = tonumber(ARGV[4])
local taken, last = {{}, {}}, {'', ''}
for _, stream in ipairs({2, 1}) do
  if credit > 0 then
    local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', credit, 'STREAMS', KEYS[stream], '>')
    if found then
      taken[stream] = found[1][2]
      credit = credit - #taken[stream]
    end
  end
end
if #taken[1] + #taken[2] == 0 then
  for stream = 1, 2 do
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[stream])) do
      local info = {}
      for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
      if info['name'] == ARGV[1] then last[stream] = info['last-delivered-id'] end
    end
  end
end
return {1, due, trouble, taken[1], taken[2], last[1], last[2]}`,
);

type Taken = readonly [
  owned: number,
  due: number,
  trouble: Buffer,
  main: readonly Entry[],
  own: readonly Entry[],
  lastOfMain: Buffer,
  lastOfOwn: Buffer,
];

/** Longest wait for something new, and longest time until a stand-by looks whether the group is free. */
const waitMs = 500;

/** Where a take-over of pending entries has got to. */
interface TakeOver {
  source: Source;
  cursor: string;
  readonly recount: boolean;
}

export function createOwnedReader(context: ReaderContext): Reader {
  const { connection, link, identity, leaseMs, runtime } = context;
  const { keys, group, consumer } = identity;
  let takeOver: TakeOver | undefined;
  const ownership = new Ownership({
    connection,
    identity,
    leaseMs,
    runtime,
    onLost: () => context.onDisowned(),
  });

  const beginAnew = (): void => {
    takeOver = { source: "own", cursor: "-", recount: false };
  };

  /** Resolves with whether the group is ours. */
  const own = async (): Promise<boolean> => {
    if (ownership.value !== "") return true;
    const waitForMs = await ownership.acquire();
    if (waitForMs === 0) {
      takeOver = { source: "own", cursor: "-", recount: true };
      return true;
    }
    await runtime.sleep(Math.min(waitForMs, waitMs), context.signal).catch(() => undefined);
    return false;
  };

  /** The next pending entries that nobody here has yet; `undefined` when there are none left. */
  const takeOverSome = async (credit: number): Promise<readonly ReadEntry[] | undefined> => {
    while (takeOver !== undefined) {
      const { source, cursor, recount } = takeOver;
      const current = takeOver;
      const found = await sweep(connection, identity, ownership.value, {
        source,
        cursor,
        limit: credit,
        recount,
      });
      if (found.disowned) {
        ownership.lose();
        return [];
      }
      context.onDeleted(found.deleted);
      // Unless it was begun anew meanwhile.
      if (takeOver === current) takeOver = after(current, found.cursor);
      const entries = found.entries.filter((entry) => !context.holds(entry));
      if (entries.length > 0) return entries;
    }
    return undefined;
  };

  const take = async (credit: number): Promise<readonly ReadEntry[]> => {
    const answer = (await run(
      connection.commands,
      takeScript,
      [keys.main, keys.own, keys.delayed, keys.bodies, keys.owner],
      [group, consumer, ownership.value, credit],
    )) as Taken;
    const [owned, due, trouble, main, ofOwn, lastOfMain, lastOfOwn] = answer;
    if (owned === 0) {
      ownership.lose();
      return [];
    }
    if (trouble.length > 0) context.onTrouble(trouble.toString());
    const entries = [...fresh("own", ofOwn), ...fresh("main", main)];
    if (entries.length === 0 && !context.signal.aborted)
      await waitForNew(lastOfMain, lastOfOwn, due < 0 ? waitMs : Math.min(due, waitMs));
    return entries;
  };

  /** Only waits: what comes is read under the ownership, in a step of its own. */
  const waitForNew = async (lastOfMain: Buffer, lastOfOwn: Buffer, ms: number): Promise<void> => {
    const blockMs = Math.max(1, Math.ceil(ms));
    const args = ["COUNT", 1, "BLOCK", blockMs, "STREAMS", keys.main, keys.own, lastOfMain, lastOfOwn];
    await link.request(
      "waiting for messages",
      (redis) => redis.callBuffer("XREAD", args),
      blockMs + connection.options.commandTimeoutMs,
    );
  };

  return {
    ownership: () => ownership.value,
    async read(credit) {
      if (!(await own())) return [];
      return (await takeOverSome(credit)) ?? (ownership.value === "" ? [] : take(credit));
    },
    interrupted: beginAnew,
    // They keep their places; nobody else reads, so they are taken again from there.
    givenBack: beginAnew,
    leave: () => ownership.giveUp(),
  };
}

function after(current: TakeOver, cursor: string | undefined): TakeOver | undefined {
  if (cursor !== undefined) return { ...current, cursor };
  return current.source === "own" ? { ...current, source: "main", cursor: "-" } : undefined;
}
