/** What the store makes in a database. */
import { Sql } from "./sql.ts";

export interface Tables {
  /** For messages: `app.postrider_*`. */
  readonly name: string;
  /** Messages waiting to leave. */
  readonly outbox: Sql;
  /** Messages that can never leave, with the reason: a person's to look at. */
  readonly parked: Sql;
  /** A lock for each ordering key. */
  readonly keys: Sql;
  /** What transactions that send hold until they end; see `gates.ts`. */
  readonly gates: Sql;
  /** Who may relay. */
  readonly lease: Sql;
  /** What was handled, or is being handled. */
  readonly inbox: Sql;
  /** Messages whose sender has not decided yet. */
  readonly prepared: Sql;
  /** Version of the tables. */
  readonly meta: Sql;
}

/**
 * Names carry the database's, because connections of users may be in another one; `undefined` is the one a connection is in.
 * `prefix` needs no escaping.
 */
export function tablesOf(database: string | undefined, prefix: string): Tables {
  const qualifier = database === undefined ? "" : `\`${database.replaceAll("`", "``")}\`.`;
  const table = (name: string): Sql => new Sql(`${qualifier}\`${prefix}${name}\``);
  return {
    name: `${database ?? ""}.${prefix}*`,
    outbox: table("outbox"),
    parked: table("outbox_parked"),
    keys: table("outbox_keys"),
    gates: table("outbox_gates"),
    lease: table("lease"),
    inbox: table("inbox"),
    prepared: table("prepared"),
    meta: table("meta"),
  };
}
