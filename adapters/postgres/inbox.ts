/**
 * The inbox: one row for each delivery of a message to a group, whether it was handled in a transaction (`record`) or
 * under a lease (`claim`, then `complete`). Every writer first tries a lock on the key, and does without when it is taken,
 * so that nobody ever waits for somebody else's handler.
 *
 * A statement does not see what was committed after it began, so what it finds is believed only where that cannot have
 * changed: "duplicate" needs a row that has ended, or belongs to a later redrive. All else is "busy", and asked again.
 */
import { createHash } from "node:crypto";
import type { PoolClient } from "pg";
import {
  type InboxAnswer,
  type InboxClaim,
  type InboxKey,
  type InboxStore,
  storable,
} from "../../src/spi.ts";
import { type Meet, preparedOn } from "./acquaintance.ts";
import type { PostgresDatabase } from "./connection.ts";
import { toStoreError } from "./errors.ts";
import { handleOf } from "./handle.ts";
import type { Tables } from "./tables.ts";

/** A key longer than this is known by its hash: an index takes some 2,700 bytes. */
const maxKeyLength = 600;

export function createInboxStore(
  database: PostgresDatabase,
  tables: Tables,
  meet: Meet,
): InboxStore<PoolClient> {
  const statements = statementsOf(tables);
  const json = (rows: readonly object[]): string => JSON.stringify(rows);

  return {
    async record(tx, entry, outcome) {
      const { s, k, r } = keyOf(entry);
      const handle = handleOf(tx);
      try {
        // What is inserted, and where it conflicts, is found by the index; there is no plan that could go bad.
        const statement = { text: statements.record, values: [s, k, r, outcome] };
        const recorded = await handle.run(preparedOn(await meet(handle), statement));
        if (recorded.rows.length === 1) return "fresh";
        const known = await handle.run({ text: statements.ended, values: [s, k, r] });
        return known.rows[0]?.[0] === "true" ? "duplicate" : "busy";
      } catch (error) {
        throw toStoreError("entering a message in the inbox", error);
      }
    },
    async claim(claims, leaseMs) {
      const values = [json(claims.map(claimOf)), leaseMs];
      const rows = await database.query("claiming messages", { text: statements.claim, values });
      return rows.map(([answer]) => answer as InboxAnswer);
    },
    async extend(claims, leaseMs) {
      const values = [json(claims.map(claimOf)), leaseMs];
      const rows = await database.query("extending claims", { text: statements.extend, values });
      const kept = new Set(rows.map(([index]) => Number(index)));
      return claims.map((_claim, index) => kept.has(index));
    },
    async complete(claims) {
      const values = [
        json(claims.map((claim) => ({ ...claimOf(claim), o: claim.outcome, v: claim.result }))),
      ];
      await database.query("completing claims", { text: statements.complete, values });
    },
    async release(claims) {
      await database.query("releasing claims", {
        text: statements.release,
        values: [json(claims.map(claimOf))],
      });
    },
    async keepResult(tx, entry, result) {
      const { s, k } = keyOf(entry);
      try {
        await handleOf(tx).run({ text: statements.keepResult, values: [s, k, result] });
      } catch (error) {
        throw toStoreError("storing a result", error);
      }
    },
    async findResult(entry) {
      const { s, k } = keyOf(entry);
      const [row] = await database.query("reading a result", { text: statements.findResult, values: [s, k] });
      return row === undefined ? undefined : { result: row[0] ?? undefined };
    },
    async purge(olderThanMs, limit) {
      const rows = await database.query("purging the inbox", {
        text: statements.purge,
        values: [olderThanMs, limit],
      });
      return Number(rows[0]?.[0]);
    },
  };
}

interface KeyCells {
  readonly s: string;
  readonly k: string;
  readonly r: number;
}

function keyOf({ scope, key, redrives }: InboxKey): KeyCells {
  const text = storable(key);
  const k = text.length <= maxKeyLength ? text : `sha256:${createHash("sha256").update(text).digest("hex")}`;
  return { s: storable(scope), k, r: redrives };
}

function claimOf(claim: InboxClaim): KeyCells & { readonly t: string } {
  return { ...keyOf(claim), t: storable(claim.token) };
}

interface Statements {
  readonly record: string;
  readonly ended: string;
  readonly claim: string;
  readonly extend: string;
  readonly complete: string;
  readonly release: string;
  readonly keepResult: string;
  readonly findResult: string;
  readonly purge: string;
}

function statementsOf(tables: Tables): Statements {
  const { inbox } = tables;
  const lock = (scope: string, key: string): string =>
    `pg_try_advisory_xact_lock(hashtextextended(${scope} || E'\\x1f' || ${key}, ${tables.seed("inbox")}))`;
  const inMs = (parameter: string): string => `${parameter} * interval '1 millisecond'`;
  // An earlier copy (fewer redrives) never takes over from a later one. A claim whose answer was lost is made again.
  const takeable = `(x.state = 'claimed' AND x.lease_until < clock_timestamp() AND x.redrives <= excluded.redrives)
      OR (x.state = 'dead' AND x.redrives < excluded.redrives) OR (x.state = 'claimed' AND x.token = excluded.token)`;
  /** Of a row as this statement sees it, for a message redriven `redrives` times. */
  const ended = (redrives: string): string =>
    `x.state IN ('handled', 'discarded') OR x.redrives > ${redrives} OR (x.state = 'dead' AND x.redrives = ${redrives})`;
  const claims = (more = ""): string =>
    `ROWS FROM (json_to_recordset($1::json) AS (s text, k text, r integer, t text${more})) WITH ORDINALITY AS c`;
  const held = `x.scope = c.s AND x.key = c.k AND x.token = c.t AND x.state = 'claimed'`;
  // Rows are changed in one order, so that two batches that share some do not deadlock.
  const heldInOrder = (more = ""): string => `c AS MATERIALIZED (SELECT c.*, x.redrives FROM ${claims(more)}
      JOIN ${inbox} AS x ON ${held} ORDER BY c.s, c.k FOR NO KEY UPDATE OF x)`;

  return {
    record: `WITH l AS MATERIALIZED (SELECT ${lock("$1::text", "$2::text")} AS ok)
      INSERT INTO ${inbox} AS x (scope, key, redrives, state) SELECT $1, $2, $3::integer, $4::text FROM l WHERE ok
      ON CONFLICT (scope, key) DO UPDATE SET state = excluded.state, redrives = excluded.redrives, token = NULL,
        lease_until = NULL, at = excluded.at WHERE ${takeable}
      RETURNING 'fresh'`,
    ended: `SELECT (${ended("$3::integer")})::text FROM ${inbox} AS x WHERE x.scope = $1 AND x.key = $2`,
    // Of two claims for one key in a batch, the first is made.
    claim: `WITH l AS MATERIALIZED (
        SELECT c.*, ${lock("c.s", "c.k")} AS ok, row_number() OVER (PARTITION BY c.s, c.k ORDER BY c.ordinality) AS nth
        FROM ${claims()}),
      i AS (
        INSERT INTO ${inbox} AS x (scope, key, redrives, state, token, lease_until)
        SELECT s, k, r, 'claimed', t, clock_timestamp() + ${inMs("$2")} FROM l WHERE ok AND nth = 1 ORDER BY s, k
        ON CONFLICT (scope, key) DO UPDATE SET state = excluded.state, redrives = excluded.redrives,
          token = excluded.token, lease_until = excluded.lease_until, at = excluded.at WHERE ${takeable}
        RETURNING scope, key)
      SELECT CASE WHEN nth = 1 AND EXISTS (SELECT 1 FROM i WHERE i.scope = l.s AND i.key = l.k) THEN 'fresh'
        WHEN (SELECT ${ended("l.r")} FROM ${inbox} AS x WHERE x.scope = l.s AND x.key = l.k) THEN 'duplicate'
        ELSE 'busy' END FROM l ORDER BY l.ordinality`,
    extend: `WITH ${heldInOrder()}
      UPDATE ${inbox} AS x SET lease_until = clock_timestamp() + ${inMs("$2")} FROM c WHERE ${held}
      RETURNING (c.ordinality - 1)::text`,
    // `at` is indexed: left as it is, the row is updated in place. It counts from the claim, unless that was long ago.
    complete: `WITH ${heldInOrder(", o text, v text")}
      UPDATE ${inbox} AS x SET state = c.o, result = c.v, token = NULL, lease_until = NULL,
        at = CASE WHEN x.at < clock_timestamp() - interval '10 seconds' THEN clock_timestamp() ELSE x.at END
      FROM c WHERE ${held}`,
    // A redriven message had been dead-lettered before: that is not forgotten.
    release: `WITH ${heldInOrder()},
      d AS (DELETE FROM ${inbox} AS x USING c WHERE ${held} AND c.redrives = 0)
      UPDATE ${inbox} AS x SET state = 'dead', redrives = x.redrives - 1, token = NULL, lease_until = NULL
      FROM c WHERE ${held} AND c.redrives > 0`,
    keepResult: `UPDATE ${inbox} SET result = $3 WHERE scope = $1 AND key = $2`,
    findResult: `SELECT result FROM ${inbox} WHERE scope = $1 AND key = $2 AND state <> 'claimed'`,
    purge: `WITH d AS (DELETE FROM ${inbox} WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM ${inbox} WHERE at < clock_timestamp() - ${inMs("$1")}
          AND (state <> 'claimed' OR lease_until < clock_timestamp())
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING 1)
      SELECT count(*)::text FROM d`,
  };
}
