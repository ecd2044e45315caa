/**
 * The inbox: one row for each delivery of a message to a group, whether it was handled in a transaction (`record`) or
 * under a lease (`claim`, then `complete`). Who asks for a message does without a row that somebody else has locked, so
 * that nobody ever waits for somebody else's handler. Who holds a claim does wait, for the lock may be that of a copy which
 * is being turned away.
 *
 * A new row is inserted, not looked for first: looking for what is not there locks the gap where it would be, and two
 * transactions that do so, for different messages, deadlock.
 */
import { createHash } from "node:crypto";
import type { PoolConnection } from "mysql2/promise";
import type {
  EndedClaim,
  InboxAnswer,
  InboxClaim,
  InboxKey,
  InboxOutcome,
  InboxStore,
} from "../../src/spi.ts";
import type { Meet } from "./acquaintance.ts";
import type { MysqlDatabase } from "./connection.ts";
import { isDuplicate, isLocked, toStoreError } from "./errors.ts";
import { handleOf } from "./handle.ts";
import { fromNow } from "./lease.ts";
import { noWait } from "./no-wait.ts";
import type { Row, Run } from "./query.ts";
import { type Sql, joined, sql } from "./sql.ts";

export function createInboxStore(database: MysqlDatabase, meet: Meet): InboxStore<PoolConnection> {
  const table = (): Sql => database.tables.inbox;
  const insist = (run: Run, statement: Sql): ReturnType<Run> => noWait(database.server, run, statement);

  /** For all at once; where one of them is locked, one by one, without the locked. Resolves with those it was done for. */
  const each = async <T>(
    run: Run,
    items: readonly T[],
    statement: (items: readonly T[]) => Sql,
  ): Promise<{ readonly done: readonly T[]; readonly affected: number }> => {
    if (items.length === 0) return { done: items, affected: 0 };
    try {
      const { affected } = await insist(run, statement(items));
      return { done: items, affected };
    } catch (error) {
      if (!isLocked(error)) throw error;
      if (items.length === 1) return { done: [], affected: 0 };
    }
    const parts = [];
    for (const item of items) parts.push(await each(run, [item], statement));
    return {
      done: parts.flatMap(({ done }) => done),
      affected: parts.reduce((sum, { affected }) => sum + affected, 0),
    };
  };

  return {
    async record(tx, entry, outcome) {
      const { run, connection } = handleOf(tx);
      const set = sql`state = ${outcome}, redrives = ${entry.redrives}, token = NULL, lease_until = NULL,
        at = UTC_TIMESTAMP(6)`;
      try {
        await meet({ run, connection });
        return await insist(run, sql`INSERT INTO ${table()} SET ${keyColumns(entry)}, ${set}`)
          .then((): InboxAnswer => "fresh")
          .catch(async (error: unknown) => {
            if (!isDuplicate(error)) throw error;
            const { rows } = await run(
              sql`SELECT ${stateColumns} FROM ${table()} WHERE ${matching(entry)} FOR UPDATE NOWAIT`,
            );
            const answer = answerOf(stateOf(rows[0]), entry);
            if (answer === "fresh") await run(sql`UPDATE ${table()} SET ${set} WHERE ${matching(entry)}`);
            return answer;
          });
      } catch (error) {
        if (isLocked(error)) return "busy";
        throw toStoreError("entering a message in the inbox", error);
      }
    },

    claim: (claims, leaseMs) =>
      database.session("claiming messages", async (run) => {
        // In the order of the index; of two claims for one key, the first is made.
        const { done, affected } = await each(run, claims.toSorted(byKey), (some) => {
          const rows = some.map(
            (
              claim,
            ) => sql`(${cellsOf(claim)}, ${claim.redrives}, 'claimed', ${tokenOf(claim)}, ${fromNow(leaseMs)},
              UTC_TIMESTAMP(6))`,
          );
          return sql`INSERT IGNORE INTO ${table()} (scope, \`key\`, redrives, state, token, lease_until, at)
            VALUES ${joined(rows, ", ")}`;
        });
        if (affected === claims.length) return claims.map(() => "fresh");

        const { rows } = await run(sql`SELECT HEX(scope), HEX(\`key\`), ${stateColumns} FROM ${table()}
          WHERE ${anyOf(claims, matching)}`);
        const found = new Map(
          rows.map(([scope, key, ...state]) => [`${String(scope)} ${String(key)}`, stateOf(state)]),
        );
        const free = new Set(done);
        const answers: InboxAnswer[] = [];
        for (const claim of claims) {
          const state = free.has(claim) ? found.get(nameOf(claim)) : undefined;
          const answer = answerOf(state, claim);
          answers.push(answer === "fresh" && !(await take(run, claim, state, leaseMs)) ? "busy" : answer);
        }
        return answers;
      }),

    extend: (claims, leaseMs) =>
      database.session("extending claims", async (run) => {
        if (claims.length === 0) return [];
        await run(sql`UPDATE ${table()} SET lease_until = ${fromNow(leaseMs)} WHERE ${anyOf(claims, held)}`);
        const { rows } = await run(
          sql`SELECT HEX(scope), HEX(\`key\`), HEX(token) FROM ${table()} WHERE ${anyOf(claims, held)}`,
        );
        const kept = new Set(rows.map((cells) => cells.join(" ")));
        return claims.map((claim) => kept.has(`${nameOf(claim)} ${hex(tokenOf(claim))}`));
      }),

    async complete(claims) {
      await database.session("completing claims", async (run) => {
        // Deliveries have no result, so they go together.
        const groups = Map.groupBy(claims, ({ outcome, result = "" }: EndedClaim) => `${outcome} ${result}`);
        for (const some of groups.values()) {
          const { outcome, result = null } = some[0] as EndedClaim;
          // `at` is indexed: left as it is, the row is updated in place. It counts from the claim, unless that was long ago.
          const set = sql`state = ${outcome}, result = ${result}, token = NULL, lease_until = NULL,
            at = IF(at < UTC_TIMESTAMP(6) - INTERVAL 10 SECOND, UTC_TIMESTAMP(6), at)`;
          await run(sql`UPDATE ${table()} SET ${set} WHERE ${anyOf(some, held)}`);
        }
      });
    },

    async release(claims) {
      await database.session("releasing claims", async (run) => {
        if (claims.length === 0) return;
        await run(sql`DELETE FROM ${table()} WHERE redrives = 0 AND (${anyOf(claims, held)})`);
        // A redriven message had been dead-lettered before: that is not forgotten.
        const set = sql`state = 'dead', redrives = redrives - 1, token = NULL, lease_until = NULL`;
        await run(sql`UPDATE ${table()} SET ${set} WHERE ${anyOf(claims, held)}`);
      });
    },

    async keepResult(tx, entry, result) {
      try {
        await handleOf(tx).run(sql`UPDATE ${table()} SET result = ${result} WHERE ${matching(entry)}`);
      } catch (error) {
        throw toStoreError("storing a result", error);
      }
    },

    async findResult(entry) {
      const { rows } = await database.query(
        "reading a result",
        sql`SELECT result FROM ${table()} WHERE ${matching(entry)} AND state <> 'claimed'`,
      );
      const [cells] = rows;
      if (cells === undefined) return undefined;
      return { result: cells[0] === null ? undefined : String(cells[0]) };
    },

    purge: (olderThanMs, limit) =>
      database.session("purging the inbox", async (run) => {
        const old = sql`at < ${fromNow(-olderThanMs)} AND (state <> 'claimed' OR lease_until < UTC_TIMESTAMP(6))`;
        const { rows } = await run(
          sql`SELECT scope, \`key\` FROM ${table()} WHERE ${old} ORDER BY at LIMIT ${limit}`,
        );
        let purged = 0;
        for (let start = 0; start < rows.length; start += purgePart) {
          const part = rows.slice(start, start + purgePart).map((cells) => sql`(${cells})`);
          const { affected } = await each(
            run,
            part,
            (some) => sql`DELETE FROM ${table()} WHERE ${old} AND (scope, \`key\`) IN (${some})`,
          );
          purged += affected;
        }
        return purged;
      }),
  };

  /** Takes over what was found, unless somebody else has meanwhile. */
  async function take(
    run: Run,
    claim: InboxClaim,
    found: State | undefined,
    leaseMs: number,
  ): Promise<boolean> {
    if (found === undefined) return false;
    const { affected } = await each(
      run,
      [claim],
      () => sql`UPDATE ${table()} SET state = 'claimed', redrives = ${claim.redrives}, token = ${tokenOf(claim)},
        lease_until = ${fromNow(leaseMs)}, at = UTC_TIMESTAMP(6)
        WHERE ${matching(claim)} AND state = ${found.state} AND redrives = ${found.redrives} AND token <=> ${found.token}
          AND (state = 'dead' OR token = ${tokenOf(claim)} OR lease_until < UTC_TIMESTAMP(6))`,
    );
    return affected === 1;
  }
}

const purgePart = 500;

/** What a row says, and whether the lease of a claim has run out. */
interface State {
  readonly state: InboxOutcome | "claimed";
  readonly redrives: number;
  readonly token: Buffer | null;
  readonly expired: boolean;
}

const stateColumns = sql`state, redrives, token, lease_until < UTC_TIMESTAMP(6)`;

function stateOf(cells: Row | undefined): State | undefined {
  if (cells === undefined) return undefined;
  const [state, redrives, token, expired] = cells;
  return {
    state: String(state) as State["state"],
    redrives: Number(redrives),
    token: token as Buffer | null,
    expired: Number(expired) === 1,
  };
}

/** `fresh`: it may be taken. A row that is not there now was there a moment ago: ask again. */
function answerOf(found: State | undefined, entry: InboxKey & { readonly token?: string }): InboxAnswer {
  if (found === undefined) return "busy";
  const { state, redrives } = found;
  if (state === "claimed") {
    // A claim whose answer was lost is made again. An earlier copy never takes over from a later one.
    const mine = entry.token !== undefined && found.token?.equals(tokenOf(entry as InboxClaim)) === true;
    if (mine || (found.expired && redrives <= entry.redrives)) return "fresh";
  }
  if (state === "dead" && redrives < entry.redrives) return "fresh";
  const ended = state !== "claimed" && (state !== "dead" || redrives === entry.redrives);
  return ended || redrives > entry.redrives ? "duplicate" : "busy";
}

/** An index takes 3,072 bytes. */
const maxScopeBytes = 255;
const maxKeyBytes = 600;

/** As JSON, because what other systems call a message may hold half a surrogate pair; what is long, by its hash. */
function bytesOf(text: string, max: number): Buffer {
  const bytes = Buffer.from(JSON.stringify(text));
  return bytes.length <= max
    ? bytes
    : Buffer.from(`sha256:${createHash("sha256").update(bytes).digest("hex")}`);
}

function cellsOf({ scope, key }: InboxKey): readonly Buffer[] {
  return [bytesOf(scope, maxScopeBytes), bytesOf(key, maxKeyBytes)];
}

function keyColumns(entry: InboxKey): Sql {
  const [scope = null, key = null] = cellsOf(entry);
  return sql`scope = ${scope}, \`key\` = ${key}`;
}

function matching(entry: InboxKey): Sql {
  const [scope = null, key = null] = cellsOf(entry);
  return sql`scope = ${scope} AND \`key\` = ${key}`;
}

function held(claim: InboxClaim): Sql {
  return sql`${matching(claim)} AND token = ${tokenOf(claim)} AND state = 'claimed'`;
}

function anyOf<T>(items: readonly T[], condition: (item: T) => Sql): Sql {
  return joined(
    items.map((item) => sql`(${condition(item)})`),
    " OR ",
  );
}

function tokenOf({ token }: InboxClaim): Buffer {
  return bytesOf(token, maxScopeBytes);
}

function byKey(a: InboxKey, b: InboxKey): number {
  return Buffer.compare(Buffer.concat(cellsOf(a)), Buffer.concat(cellsOf(b)));
}

function nameOf(entry: InboxKey): string {
  return cellsOf(entry).map(hex).join(" ");
}

function hex(bytes: Buffer): string {
  return bytes.toString("hex").toUpperCase();
}
