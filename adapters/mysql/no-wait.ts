/** Statements that find a row locked by somebody else, and must not wait for somebody else's handler. */
import type { Answer, Run } from "./query.ts";
import type { Server } from "./server.ts";
import { type Sql, sql } from "./sql.ts";

/**
 * Runs a statement that fails with a lock error (`isLocked`) instead of waiting. NOWAIT is for reading only; MariaDB can do
 * without waiting for one statement, MySQL not for less than a second.
 */
export async function noWait({ isMariaDb }: Server, run: Run, statement: Sql): Promise<Answer> {
  if (isMariaDb) return run(sql`SET STATEMENT innodb_lock_wait_timeout = 0 FOR ${statement}`);
  await run(sql`SET @postrider = @@innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = 1`);
  try {
    return await run(statement);
  } finally {
    await run(sql`SET SESSION innodb_lock_wait_timeout = @postrider`);
  }
}
