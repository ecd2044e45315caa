/** What kind of server it is, and whether it will do. */
import { StoreError } from "../../src/spi.ts";
import type { Run } from "./query.ts";
import { sql } from "./sql.ts";
import { type Tables, tablesOf } from "./tables.ts";

export interface Server {
  /** For messages: `database "app"`. */
  readonly name: string;
  readonly tables: Tables;
  readonly isMariaDb: boolean;
  /** Bytes of the largest statement it takes. */
  readonly maxPacket: number;
  /** A commit is on disk when it is confirmed. */
  readonly flushed: boolean;
  /** A lock that cannot be had in time undoes the whole transaction, not only the statement. */
  readonly rollsBackOnTimeout: boolean;
}

/** Rejects with `StoreError` when it is too old, cannot be written to, or no database is named. */
export async function readServer(run: Run, prefix: string): Promise<Server> {
  const { rows } = await run(sql`SELECT VERSION(), DATABASE(), @@read_only, @@max_allowed_packet,
    @@innodb_flush_log_at_trx_commit, @@innodb_rollback_on_timeout`);
  const [version, database, readOnly, maxPacket, flush, rollsBack] = rows[0]?.map(String) ?? [];
  const isMariaDb = /mariadb/iu.test(version ?? "");
  const name = `database "${database}"`;
  const refuse = (why: string, retryable = false): never => {
    throw new StoreError("ERR_STORE", `${name} cannot be used: ${why}`, { retryable });
  };
  if (rows[0]?.[1] === null || database === undefined) {
    throw new StoreError(
      "ERR_STORE",
      "the connection names no database: mysql://user:password@host:3306/database",
      { retryable: false },
    );
  }
  const [major = 0, minor = 0] = version?.split(".").map(Number.parseFloat) ?? [];
  const isOld = isMariaDb ? major < 10 || (major === 10 && minor < 6) : major < 8;
  if (isOld) refuse(`its server is ${version}. MariaDB 10.6 or MySQL 8.0, or newer, is needed`);
  if (readOnly !== "0") refuse("its server is a read-only replica. Connect to the primary", true);
  return {
    name,
    tables: tablesOf(database, prefix),
    isMariaDb,
    maxPacket: Number(maxPacket),
    flushed: flush === "1",
    rollsBackOnTimeout: rollsBack === "1",
  };
}
