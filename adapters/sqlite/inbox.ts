/** The inbox in SQLite: what was handled, and what is being handled. */
import type { DatabaseSync } from "node:sqlite";
import {
  type InboxAnswer,
  type InboxKey,
  type InboxOutcome,
  type InboxStore,
  storable,
} from "../../src/spi.ts";
import { storeError } from "./errors.ts";
import type { SqliteFile } from "./file.ts";
import { type Sql, sqlOn } from "./sql.ts";

/** `outcome` is how it ended, if it did; `token` and `lease_until` who is handling it, if anybody. */
interface Row {
  readonly redrives: number;
  readonly outcome: InboxOutcome | null;
  readonly token: string | null;
  readonly lease_until: number | null;
}

export interface InboxContext {
  readonly file: () => SqliteFile;
  readonly path: string;
}

export function createInboxStore({ file, path }: InboxContext): InboxStore<DatabaseSync> {
  const now = (): number => file().runtime.now();

  return {
    async record(tx, entry, outcome) {
      try {
        const sql = sqlOn(tx);
        const answer = answerFor(find(sql, entry), entry, now());
        if (answer === "fresh") end(sql, entry, outcome, now());
        return answer;
      } catch (error) {
        throw storeError("inbox", path, error);
      }
    },

    claim: (claims, leaseMs) =>
      file().write((sql) =>
        claims.map((claim): InboxAnswer => {
          const row = find(sql, claim);
          // A claim whose answer was lost is asked for again, with its own token.
          const mine = row?.token === claim.token;
          const answer = mine ? "fresh" : answerFor(row, claim, now());
          if (answer === "fresh") {
            sql.run(
              `INSERT INTO postrider_inbox (scope, key, redrives, token, lease_until, at) VALUES (?, ?, ?, ?, ?, ?)
               ON CONFLICT (scope, key) DO UPDATE SET token = excluded.token, lease_until = excluded.lease_until`,
              ...cellsOf(claim),
              claim.redrives,
              claim.token,
              Math.ceil(now() + leaseMs),
              now(),
            );
          }
          return answer;
        }),
      ),

    extend: (claims, leaseMs) =>
      file().write((sql) =>
        claims.map(
          (claim) =>
            sql.run(
              "UPDATE postrider_inbox SET lease_until = ? WHERE scope = ? AND key = ? AND token = ?",
              Math.ceil(now() + leaseMs),
              ...cellsOf(claim),
              claim.token,
            ) === 1,
        ),
      ),

    async complete(claims) {
      await file().write((sql) => {
        for (const claim of claims) {
          const held = find(sql, claim)?.token === claim.token;
          if (held) end(sql, claim, claim.outcome, now(), claim.result);
        }
      });
    },

    async release(claims) {
      await file().write((sql) => {
        for (const claim of claims) {
          const mine = [...cellsOf(claim), claim.token] as const;
          // What had ended before it was claimed (a redriven dead letter) stays ended.
          sql.run(
            "DELETE FROM postrider_inbox WHERE scope = ? AND key = ? AND token = ? AND outcome IS NULL",
            ...mine,
          );
          sql.run(
            "UPDATE postrider_inbox SET token = NULL, lease_until = NULL WHERE scope = ? AND key = ? AND token = ?",
            ...mine,
          );
        }
      });
    },

    async keepResult(tx, entry, result) {
      try {
        sqlOn(tx).run(
          "UPDATE postrider_inbox SET result = ? WHERE scope = ? AND key = ?",
          result,
          ...cellsOf(entry),
        );
      } catch (error) {
        throw storeError("inbox", path, error);
      }
    },

    findResult: (entry) =>
      file().read((sql) => {
        const row = sql.get<{ readonly result: string | null }>(
          "SELECT result FROM postrider_inbox WHERE scope = ? AND key = ? AND outcome IS NOT NULL AND token IS NULL",
          ...cellsOf(entry),
        );
        return row === undefined ? undefined : { result: row.result ?? undefined };
      }),

    purge: (olderThanMs, limit) =>
      file().write((sql) =>
        sql.run(
          `DELETE FROM postrider_inbox WHERE (scope, key) IN
             (SELECT scope, key FROM postrider_inbox
              WHERE at < ?1 AND (token IS NULL OR lease_until <= ?2) ORDER BY at LIMIT ?3)`,
          now() - olderThanMs,
          now(),
          limit,
        ),
      ),
  };
}

function cellsOf({ scope, key }: InboxKey): readonly [string, string] {
  return [storable(scope), storable(key)];
}

function find(sql: Sql, entry: InboxKey): Row | undefined {
  return sql.get<Row>(
    "SELECT redrives, outcome, token, lease_until FROM postrider_inbox WHERE scope = ? AND key = ?",
    ...cellsOf(entry),
  );
}

/** A redriven message may run again if it was dead-lettered, never if it was handled. */
function answerFor(row: Row | undefined, entry: InboxKey, now: number): InboxAnswer {
  if (row === undefined) return "fresh";
  if (row.token !== null && (row.lease_until ?? 0) > now) return "busy";
  if (row.outcome === null) return "fresh";
  return row.outcome === "dead" && entry.redrives > row.redrives ? "fresh" : "duplicate";
}

function end(sql: Sql, entry: InboxKey, outcome: InboxOutcome, now: number, result?: string): void {
  sql.run(
    `INSERT INTO postrider_inbox (scope, key, redrives, outcome, result, at) VALUES (?, ?, ?, ?, ?, ?)
     ON CONFLICT (scope, key) DO UPDATE SET redrives = excluded.redrives, outcome = excluded.outcome,
       result = excluded.result, token = NULL, lease_until = NULL, at = excluded.at`,
    ...cellsOf(entry),
    entry.redrives,
    outcome,
    result ?? null,
    now,
  );
}
