/** The same work done by others on the same server: rows that wait, taken and put away, with a handler that does nothing. */
import { setTimeout as sleep } from "node:timers/promises";
import { PgBoss } from "pg-boss";
import { DatabaseSetup, getDisabledLogger, initializePollingMessageListener } from "pg-transactional-outbox";
import { type BenchDatabase, payloadOf } from "./database.ts";
import { timed } from "./measure.ts";

export interface PeerRun {
  readonly database: BenchDatabase;
  readonly rows: number;
  readonly instances: number;
}

/** Fetch and complete in batches of 500, as a relay built on it would. */
export async function pgBossRate({ database, rows, instances }: PeerRun): Promise<number> {
  const queue = "bench";
  const bosses = Array.from(
    { length: instances },
    () => new PgBoss({ connectionString: database.url, supervise: false, schedule: false }),
  );
  for (const boss of bosses) {
    boss.on("error", (error) => {
      throw error;
    });
    await boss.start();
  }
  const [first] = bosses;
  if (first === undefined) throw new Error("no instances");
  await first.createQueue(queue);
  await first.deleteAllJobs(queue);
  for (let at = 0; at < rows; at += 1_000) {
    const count = Math.min(1_000, rows - at);
    await first.insert(
      queue,
      Array.from({ length: count }, (_, n) => ({ data: payloadOf(at + n) })),
    );
  }
  const drain = async (boss: PgBoss): Promise<void> => {
    for (;;) {
      const jobs = await boss.fetch(queue, { batchSize: 500 });
      if (jobs.length === 0) return;
      await boss.complete(
        queue,
        jobs.map(({ id }) => id),
      );
    }
  };
  const ms = await timed(() => Promise.all(bosses.map(drain)));
  await Promise.all(bosses.map((boss) => boss.stop({ graceful: false })));
  return (rows / ms) * 1_000;
}

/**
 * Its polling listener as it comes, for five seconds: waiting for all rows would measure how long those are locked that it
 * could not lock, or gave up. The order of a key is kept.
 */
export async function pgTransactionalOutboxRate({ database, rows, instances }: PeerRun): Promise<number> {
  const seconds = 5;
  const [schema, table, name] = ["pto", "outbox", "next_messages"];
  const setup = {
    outboxOrInbox: "outbox",
    database: new URL(database.url).pathname.slice(1),
    schema,
    table,
    listenerRole: "postgres",
    nextMessagesName: name,
  } as const;
  await database.pool.query(DatabaseSetup.dropAndCreateTable(setup));
  await database.pool.query(DatabaseSetup.createPollingFunction(setup));
  await database.pool.query(DatabaseSetup.setupPollingIndexes(setup));
  await database.pool.query(
    `INSERT INTO ${schema}.${table} (id, aggregate_type, aggregate_id, message_type, segment, payload)
      SELECT gen_random_uuid(), 'bench', n, 'bench', 'k' || n % 5000, jsonb_build_object('n', n, 'text', repeat('x', 260))
      FROM generate_series(1, $1::int) AS n`,
    [rows],
  );
  await database.pool.query(`ANALYZE ${schema}.${table}`);
  const handle = (): Promise<void> => Promise.resolve();
  const config = {
    outboxOrInbox: "outbox" as const,
    dbListenerConfig: { connectionString: database.url },
    settings: {
      enableMaxAttemptsProtection: false,
      enablePoisonousMessageProtection: false,
      dbSchema: schema,
      dbTable: table,
      nextMessagesFunctionSchema: schema,
      nextMessagesFunctionName: name,
    },
  };
  const shutdowns = Array.from(
    { length: instances },
    () => initializePollingMessageListener(config, { handle }, getDisabledLogger())[0],
  );
  await sleep(seconds * 1_000);
  const { rows: done } = await database.pool.query<{ count: string }>(
    `SELECT count(*) FROM ${schema}.${table} WHERE processed_at IS NOT NULL`,
  );
  await Promise.all(shutdowns.map((shutdown) => shutdown()));
  const handled = Number(done[0]?.count);
  if (handled === rows || handled === 0) throw new Error(`${handled} of ${rows} rows tell no rate`);
  return handled / seconds;
}
