/** One statement on one connection, whatever its settings. */
import type { Connection as CallbackConnection, QueryOptions } from "mysql2";
import type { Connection } from "mysql2/promise";
import type { Sql } from "./sql.ts";

/** Ids come as text, what is text in the tables as bytes. */
export type Cell = string | number | Buffer | null;
export type Row = readonly Cell[];

export interface Answer {
  readonly rows: readonly Row[];
  readonly affected: number;
  /** Whether a transaction is open after the statement. Only of statements without rows: `mysql2` says it of no others. */
  readonly inTransaction: boolean;
}

/** Runs statements on one connection. */
export type Run = (statement: Sql) => Promise<Answer>;

/** SERVER_STATUS_IN_TRANS */
const inTransactionFlag = 1;

/** Overrules what a connection was set to where it would change what we read. Only a function overrules a function. */
const asSent: Omit<QueryOptions, "sql"> = {
  rowsAsArray: true,
  nestTables: false,
  typeCast: (_field, next) => next(),
};

export function runOn(connection: Connection | CallbackConnection, timeoutMs?: number): Run {
  return async ({ text }) => {
    const query = { ...asSent, sql: text, ...(timeoutMs === undefined ? {} : { timeout: timeoutMs }) };
    try {
      return answerOf(await send(connection, query));
    } catch (error) {
      // It holds the statement, with all that is in the messages; errors are logged.
      if (error instanceof Error && "sql" in error) delete error.sql;
      throw error;
    }
  };
}

function send(connection: Connection | CallbackConnection, query: QueryOptions): Promise<unknown> {
  if (!isCallbackConnection(connection)) return connection.query(query).then(([result]) => result);
  return new Promise((resolve, reject) => {
    connection.query(query, (error: Error | null, result: unknown) =>
      error ? reject(error) : resolve(result),
    );
  });
}

function isCallbackConnection(connection: Connection | CallbackConnection): connection is CallbackConnection {
  return "promise" in connection;
}

function answerOf(result: unknown): Answer {
  if (Array.isArray(result)) return { rows: result as Row[], affected: 0, inTransaction: false };
  const { affectedRows } = result as { affectedRows: unknown };
  return { rows: [], affected: Number(affectedRows), inTransaction: isInTransaction(result) === true };
}

/** As the server said with the result of a statement; `undefined` for results that do not tell. */
export function isInTransaction(result: unknown): boolean | undefined {
  const status = (result as { readonly serverStatus?: unknown } | null | undefined)?.serverStatus;
  return typeof status === "number" ? (status & inTransactionFlag) !== 0 : undefined;
}
