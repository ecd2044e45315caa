/**
 * Reading for a group with order: each subscription reads the partitions that are its own. It takes over what their
 * predecessors had handed over before it reads anything new, and every read makes sure in the same step that they are still
 * its own.
 */
import type { Claim, ReadEntry } from "./entry.ts";
import { type Grant, Membership } from "./membership.ts";
import type { Reader, ReaderContext } from "./reader.ts";
import { run } from "./script.ts";
import { adoptStrays } from "./strays.ts";
import { type Slot, type TakeAnswer, slotArguments, takeScript, toTaken } from "./take-script.ts";

/** Longest wait for something new, and for a partition. */
const waitMs = 500;

export function createOwnedReader(context: ReaderContext): Reader {
  const { connection, link, keys, group, leaseMs, runtime } = context;
  const slots = new Map<Grant, Slot>();
  /** What a read under way may bring entries of. */
  let reading: ReadonlySet<Grant> = new Set();
  let turn = 0;
  let strays: number | undefined;
  let adopted = { partitions: 0, at: 0 };
  let wake = (): void => undefined;

  /** Reads them again from where their queues begin. `recount`: what is out was with somebody else. */
  const begin = (grants: Iterable<Grant>, recount: boolean): void => {
    for (const grant of grants)
      slots.set(grant, { grant, own: { from: "-", recount }, main: { from: "-", recount } });
  };

  const membership = new Membership({
    connection,
    keys,
    member: context.consumer,
    partitions: context.partitions,
    leaseMs,
    runtime,
    unsettled: (grant) => context.heldBy(grant.claim) + (reading.has(grant) ? 1 : 0),
    onGained(grants) {
      begin(grants, true);
      wake();
    },
    onLost: (grants) => context.onDisowned(grants.map(({ claim }) => claim)),
    onOther: (partitions) => context.onPartitions(partitions),
  });

  /** Before the first read, so that what is older comes first; later what somebody outside has left behind since. */
  const adopt = async (): Promise<void> => {
    const { partitions } = membership;
    const now = runtime.monotonic();
    const isFirst = adopted.partitions !== partitions;
    if (!isFirst && now - adopted.at < leaseMs) return;
    context.onDeleted(await adoptStrays(connection, keys, group, partitions, isFirst ? 0 : leaseMs));
    adopted = { partitions, at: now };
  };

  const runTake = async (mine: readonly Slot[], credit: number): Promise<TakeAnswer> => {
    const { own, main, delayed, bodies } = keys;
    const owners = mine.map(({ grant }) => grant.claim.owner);
    const current = new Set(mine.map(({ grant }) => grant));
    reading = current;
    try {
      return (await run(
        connection.commands,
        takeScript,
        [own, main, delayed, bodies, keys.strays, ...owners],
        [group, membership.partitions, credit, ...mine.flatMap(slotArguments)],
      )) as TakeAnswer;
    } finally {
      // Only when what came is held.
      runtime.defer(() => {
        if (reading === current) reading = new Set();
      });
    }
  };

  const take = async (mine: readonly Slot[], credit: number): Promise<readonly ReadEntry[]> => {
    const [due, trouble, strayCount, queuedCount, lastOfOwn, lastOfMain, ...answers] = await runTake(
      mine,
      credit,
    );
    if (trouble.length > 0) context.onTrouble(trouble.toString());
    const entries = answers.flatMap((answer, i) => {
      const slot = mine[i] as Slot;
      const { grant } = slot;
      const taken = toTaken(slot, answer);
      if (!taken.owned) membership.lose([grant]);
      context.onDeleted(taken.deleted);
      // Unless it was begun anew meanwhile.
      if (slots.get(grant) === slot) slots.set(grant, taken.next);
      return membership.holds(grant) ? taken.entries.filter((entry) => !context.holds(entry)) : [];
    });
    if (strays !== undefined && strayCount !== strays) begin(slots.keys(), false);
    strays = strayCount;
    const isIdle = answers.every(
      ([owned, ofOwn, ofMain]) => owned === 1 && isEmpty(ofOwn) && isEmpty(ofMain),
    );
    if (isIdle && queuedCount === 0 && !context.signal.aborted)
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

  const waitForPartition = (): Promise<void> =>
    Promise.race([
      new Promise<void>((resolve) => (wake = resolve)),
      runtime.sleep(waitMs, context.signal).catch(() => undefined),
    ]);

  /** The slots of the partitions to read now, another one first each time. */
  const toRead = (): Slot[] => {
    for (const grant of slots.keys()) if (!membership.holds(grant)) slots.delete(grant);
    const readable = membership.readable().map((grant) => slots.get(grant) as Slot);
    turn += 1;
    const first = turn % Math.max(1, readable.length);
    return [...readable.slice(first), ...readable.slice(0, first)];
  };

  return {
    async read(credit) {
      await membership.join();
      await adopt();
      // The group may have got another number of them meanwhile.
      if (adopted.partitions !== membership.partitions) return [];
      const mine = toRead();
      if (mine.length > 0) return take(mine, credit);
      await waitForPartition();
      return [];
    },
    interrupted: () => begin(slots.keys(), false),
    // They keep their places; nobody else reads them, so they are taken again from there.
    givenBack(claims: ReadonlySet<Claim>) {
      begin(
        [...slots.keys()].filter(({ claim }) => claims.has(claim)),
        false,
      );
    },
    leave: () => membership.leave(),
  };
}

function isEmpty([entries, , , deleted]: readonly [readonly unknown[], Buffer, number, number]): boolean {
  return entries.length === 0 && deleted === 0;
}
