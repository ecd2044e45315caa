/**
 * Settling: every step is one script that first makes sure that the entry is still pending for this consumer, so that a
 * stale settle changes nothing, and copies before it acknowledges, so that a failure changes nothing either.
 */
import type { HeaderPatch, SettleResult } from "../../src/spi.ts";
import { idOf, patchHeaders } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import { type Claim, type Held, type Source, isBefore } from "./entry.ts";
import { requestError } from "./errors.ts";
import type { GroupKeys } from "./keys.ts";
import { patchFields } from "./mapping.ts";
import { type Argument, type Script, run } from "./script.ts";
import {
  ackScript,
  addScript,
  deadLetterScript,
  deferScript,
  extendScript,
  releaseScript,
  releasedConsumer,
} from "./settle-scripts.ts";

/** Ids in one script. */
const maxIds = 500;

/** What became of one entry: settled, not ours any more, not known, or deleted by somebody while it was ours. */
type Settled = SettleResult | { readonly status: "orphaned" };

export interface SettlerContext {
  readonly connection: RedisConnection;
  readonly keys: GroupKeys;
  readonly topic: string;
  readonly group: string;
  /** How many entries may be out as this claim now. */
  readonly heldBy: (claim: Claim) => number;
}

export interface Settler {
  ack(helds: readonly Held[]): Promise<readonly SettleResult[]>;
  defer(held: Held, delayMs: number, patch: HeaderPatch): Promise<SettleResult>;
  deadLetter(held: Held, patch: HeaderPatch): Promise<SettleResult>;
  release(helds: readonly Held[]): Promise<readonly SettleResult[]>;
  /** Keeps them for another lease, and says which are not ours any more. */
  extend(helds: readonly Held[]): Promise<readonly Settled[]>;
}

export function createSettler(context: SettlerContext): Settler {
  const { connection, keys, topic, group } = context;
  const { runtime } = connection;

  const call = async (
    script: Script,
    { source, claim }: Held,
    more: readonly string[],
    args: readonly Argument[],
  ): Promise<readonly number[]> =>
    (await run(
      connection.commands,
      script,
      [keys[source], claim.owner, ...more],
      [group, claim.consumer, claim.ownership, ...args],
    )) as readonly number[];

  /** One script for those of each stream and claim, in parts; each has its own result. */
  const each = async (
    script: Script,
    helds: readonly Held[],
    first: (part: readonly Held[]) => readonly Argument[],
  ): Promise<Settled[]> => {
    const results = new Map<Held, Settled>();
    await Promise.all(
      partsOf(helds).map(async (part) => {
        const ids = part.map(({ id }) => id);
        try {
          const answers = await call(script, part[0] as Held, [], [...first(part), ...ids]);
          part.forEach((held, i) => results.set(held, toSettled(held, answers[i])));
        } catch (error) {
          for (const held of part) results.set(held, failed(held, error, script === ackScript));
        }
      }),
    );
    return helds.map((held) => results.get(held) ?? { status: "stale" });
  };

  /** Where the ids lie, when that is no more than a few times as many entries of ours. */
  const span = (part: readonly Held[]): readonly Argument[] => {
    let [first, last] = [part[0] as Held, part[0] as Held];
    for (const held of part) {
      if (isBefore(held.id, first.id)) first = held;
      if (isBefore(last.id, held.id)) last = held;
    }
    const most = context.heldBy(first.claim);
    return [first.id, last.id, part.length > 4 && most <= 4 * part.length ? most : 0];
  };

  const one = async (
    script: Script,
    held: Held,
    more: readonly string[],
    args: readonly Argument[],
  ): Promise<SettleResult> => {
    try {
      const [answer] = await call(script, held, more, args);
      const settled = toSettled(held, answer);
      return settled.status === "orphaned" ? { status: "stale" } : settled;
    } catch (error) {
      return failed(held, error, script !== addScript);
    }
  };

  return {
    async ack(helds) {
      const settled = await each(
        ackScript,
        helds.filter(({ orphaned }) => !orphaned),
        span,
      );
      let i = 0;
      return helds.map(({ orphaned }) => (orphaned ? { status: "done" } : (settled[i++] as SettleResult)));
    },
    defer(held, delayMs, patch) {
      const id = held.orphaned ? "" : held.id;
      const args = [id, runtime.newId(), Math.ceil(delayMs), ...patchFields(held.fields, patch)];
      return one(deferScript, held, [keys.delayed, keys.bodies], args);
    },
    deadLetter(held, patch) {
      const { message, position } = held.delivery;
      const patched = { ...message, headers: patchHeaders(message.headers, patch) };
      const args = [
        held.orphaned ? "" : held.id,
        idOf(topic, position, patched),
        ...patchFields(held.fields, patch),
      ];
      return one(deadLetterScript, held, [keys.dead, keys.deadIds], args);
    },
    async release(helds) {
      const settled = await each(releaseScript, helds, ([held]) => [heirOf(held as Held)]);
      return Promise.all(
        settled.map(async (result, i) => {
          const held = helds[i] as Held;
          if (result.status === "failed" || (result.status !== "orphaned" && !held.orphaned)) return result;
          return one(
            addScript,
            held,
            [keys.own],
            patchFields(held.fields, { "pr-position": held.delivery.position }),
          );
        }),
      );
    },
    extend: (helds) => each(extendScript, helds, span),
  };
}

/** At most so many as fit in one script, all of one stream and claim, in order. */
function partsOf(helds: readonly Held[]): Held[][] {
  const parts: Held[][] = [];
  const open: Record<Source, Map<Claim, Held[]>> = { main: new Map(), own: new Map() };
  for (const held of helds) {
    let part = open[held.source].get(held.claim);
    if (part === undefined || part.length === maxIds) {
      part = [];
      open[held.source].set(held.claim, part);
      parts.push(part);
    }
    part.push(held);
  }
  return parts;
}

/** Who has an entry that was given back: nobody, or the partition for whoever reads it. */
function heirOf({ claim }: Held): string {
  return claim.ownership === "" ? releasedConsumer : claim.consumer;
}

function toSettled(held: Held, answer: number | undefined): Settled {
  if (answer === 1) return { status: "done" };
  if (answer === 2) return { status: "orphaned" };
  // Pending for nobody after a settle of ours that had no answer: it was carried out.
  return { status: answer === -1 && held.unanswered ? "done" : "stale" };
}

function failed(held: Held, cause: unknown, settles: boolean): SettleResult & { status: "failed" } {
  const error = requestError("settling", cause);
  if (settles && error.mayHaveRun) held.unanswered = true;
  return { status: "failed", error };
}
