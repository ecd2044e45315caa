/**
 * Reading for a group without order: every subscription is a consumer of its own and takes what comes. New entries by a
 * blocking read, so that an idle group costs next to nothing; what others left behind in regular rounds.
 */
import type { Claim, Entry, ReadEntry, Source } from "./entry.ts";
import { moveDue } from "./lua.ts";
import { type CountedEntry, counted, sweep } from "./pending.ts";
import type { Reader, ReaderContext } from "./reader.ts";
import { run, script } from "./script.ts";
import { leaveScript, releasedConsumer } from "./settle-scripts.ts";

/**
 * One round: deferred copies that are due go to the group's own stream; then, up to the credit, entries that were given back
 * are taken, and those whose lease ran out. `KEYS` main, own, delayed, bodies; `ARGV` group, consumer, the consumer that is
 * nobody, lease, credit, cursor of main, cursor of own.
 */
const roundScript = script(
  "looking for messages left behind",
  `${moveDue}
local due, trouble = moveDue(KEYS[3], KEYS[4], KEYS[2])
local credit = tonumber(ARGV[5])
local taken, deleted, cursors = {{}, {}}, 0, {ARGV[6], ARGV[7]}
local function claim(stream, id, fields)
  local found = redis.call('XPENDING', KEYS[stream], ARGV[1], id, id, 1)
  if found[1] then taken[stream][#taken[stream] + 1] = {id, fields, found[1][4]} end
  credit = credit - 1
end
for _, stream in ipairs({2, 1}) do
  if credit > 0 then
    for _, pending in ipairs(redis.call('XPENDING', KEYS[stream], ARGV[1], '-', '+', credit, ARGV[3])) do
      local claimed = redis.call('XCLAIM', KEYS[stream], ARGV[1], ARGV[2], 0, pending[1])
      if claimed[1] then claim(stream, pending[1], claimed[1][2])
      else redis.call('XACK', KEYS[stream], ARGV[1], pending[1]) deleted = deleted + 1 end
    end
  end
  if credit > 0 then
    local found = redis.call('XAUTOCLAIM', KEYS[stream], ARGV[1], ARGV[2], ARGV[4], cursors[stream], 'COUNT', math.min(credit, 100))
    cursors[stream] = found[1]
    for _, entry in ipairs(found[2]) do if entry then claim(stream, entry[1], entry[2]) end end
    if found[3] then deleted = deleted + #found[3] end
  end
end
return {due, trouble, deleted, cursors[1], cursors[2], taken[1], taken[2]}`,
);

type Round = readonly [
  due: number,
  trouble: Buffer,
  deleted: number,
  cursorOfMain: Buffer,
  cursorOfOwn: Buffer,
  main: readonly CountedEntry[],
  own: readonly CountedEntry[],
];

/** Longest time between two rounds, and longest blocking read: a deferred copy is late by no more. */
const roundMs = 500;

export function createCompetingReader(context: ReaderContext): Reader {
  const { connection, link, keys, group, consumer, leaseMs, runtime } = context;
  /** Nobody owns the group: whether an entry is pending for this consumer is all that counts. */
  const claim: Claim = { consumer, owner: keys.own, ownership: "" };
  let nextRoundAt = 0;
  let cursors: readonly [main: string, own: string] = ["0-0", "0-0"];
  /** The own stream had something lately: the credit is shared between the two. */
  let ownBusy = false;
  let ownFirst = true;
  /** When to look for what was read for us and may not have arrived. */
  let recoverAt: number[] = [];

  /** What is pending for this consumer and not held was lost on the way. Not counted: nobody has seen it. */
  const recover = async (): Promise<readonly ReadEntry[]> => {
    recoverAt = recoverAt.filter((at) => at > runtime.monotonic());
    const entries: ReadEntry[] = [];
    for (const source of ["own", "main"] as const) {
      const found = await sweep(connection, keys, group, claim, source);
      context.onDeleted(found.deleted);
      entries.push(...found.entries.filter((entry) => !context.holds(entry)));
    }
    return entries;
  };

  const round = async (credit: number): Promise<readonly ReadEntry[]> => {
    const args = [group, consumer, releasedConsumer, leaseMs, credit, ...cursors];
    const answer = await run(link, roundScript, [keys.main, keys.own, keys.delayed, keys.bodies], args);
    const [due, trouble, deleted, ofMain, ofOwn, main, own] = answer as Round;
    nextRoundAt = runtime.monotonic() + (due < 0 ? roundMs : Math.min(due, roundMs));
    cursors = [ofMain.toString(), ofOwn.toString()];
    context.onDeleted(deleted);
    if (trouble.length > 0) context.onTrouble(trouble.toString());
    return [
      ...own.map((entry) => counted("own", claim, entry)),
      ...main.map((entry) => counted("main", claim, entry)),
    ];
  };

  const readGroup = async (
    sources: readonly Source[],
    count: number,
    blockMs: number,
  ): Promise<ReadEntry[]> => {
    const block = blockMs > 0 ? ["BLOCK", Math.ceil(blockMs)] : [];
    const args = ["GROUP", group, consumer, "COUNT", count, ...block, "STREAMS"];
    const answer = (await link.request(
      "reading",
      (redis) =>
        redis.callBuffer("XREADGROUP", [
          ...args,
          ...sources.map((source) => keys[source]),
          ...sources.map(() => ">"),
        ]),
      blockMs + connection.options.commandTimeoutMs,
    )) as readonly (readonly [stream: Buffer, entries: readonly Entry[]])[] | null;
    return (answer ?? []).flatMap(([stream, entries]) =>
      entries.map(([id, fields]): ReadEntry => {
        const source = stream.toString() === keys.own ? "own" : "main";
        return { claim, source, id: id.toString(), fields: fields ?? [], redeliveries: 0 };
      }),
    );
  };

  /** `COUNT` is for each stream, so the credit is divided; where it cannot be, they take turns. */
  const readNew = async (credit: number, waitMs: number): Promise<readonly ReadEntry[]> => {
    if (ownBusy && credit === 1) {
      ownFirst = !ownFirst;
      for (const source of ownFirst ? (["own", "main"] as const) : (["main", "own"] as const)) {
        const entries = await readGroup([source], 1, 0);
        if (entries.length > 0) return entries;
      }
      ownBusy = false;
    }
    const count = ownBusy ? Math.floor(credit / 2) : credit;
    const entries = await readGroup(["own", "main"], count, waitMs);
    ownBusy = entries.some(({ source }) => source === "own");
    return entries;
  };

  return {
    async read(credit) {
      if (recoverAt.some((at) => at <= runtime.monotonic())) {
        const entries = await recover();
        if (entries.length > 0) return entries;
      }
      const now = runtime.monotonic();
      if (now >= nextRoundAt) {
        const entries = await round(credit);
        if (entries.length > 0) return entries;
      }
      if (context.signal.aborted) return [];
      return readNew(credit, Math.max(1, nextRoundAt - runtime.monotonic()));
    },
    interrupted() {
      const now = runtime.monotonic();
      // Twice: a server that does not know that the connection is gone may still answer the last blocking read.
      recoverAt = [now, now + roundMs * 2];
      nextRoundAt = 0;
    },
    // The next round finds them, whoever makes it.
    givenBack() {
      nextRoundAt = 0;
    },
    async leave() {
      const args = [group, consumer, releasedConsumer];
      await Promise.all(
        [keys.own, keys.main].map((stream) => run(connection.commands, leaveScript, [stream], args)),
      );
    },
  };
}
