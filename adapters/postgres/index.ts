/**
 * The PostgreSQL store: outbox, inbox and idempotency in the user's own database, PostgreSQL 13 or newer.
 *
 * What the server sees: a schema of five small tables, short autocommit statements of relay and inbox at READ COMMITTED,
 * and one statement per send in the transactions of users. No session state and no advisory lock that outlives its
 * transaction: it works behind a transaction pooler. Only the relay that works keeps a connection of its own, for LISTEN;
 * where notices do not come through it polls.
 */
import type { PoolClient } from "pg";
import type { Store } from "../../src/spi.ts";
import { createMeet } from "./acquaintance.ts";
import { PostgresDatabase } from "./connection.ts";
import { createEmit } from "./emit.ts";
import type { PostgresHandle } from "./handle.ts";
import { createInboxStore } from "./inbox.ts";
import { checkVersion, migrate, migrationTexts, readVersion } from "./migrations.ts";
import { createNotices } from "./notices.ts";
import { type PostgresOptions, checkOptions } from "./options.ts";
import { createOutboxStore } from "./outbox.ts";
import { createPreparedStore } from "./prepared.ts";
import { tablesOf } from "./tables.ts";
import { runTransaction } from "./transaction.ts";

export type { PostgresHandle } from "./handle.ts";
export type { PostgresOptions } from "./options.ts";
export { fromDrizzle } from "./drizzle.ts";
export { fromKnex } from "./knex.ts";
export { fromKysely } from "./kysely.ts";
export { fromPrisma } from "./prisma.ts";
export { fromTypeorm } from "./typeorm.ts";

/** What handlers get as `ctx.tx`: a client of `pg` that works until its transaction ends, and refuses with `ERR_TX` after. */
export type PostgresTransaction = PoolClient;

/**
 * A store in PostgreSQL. Needs `pg` 8.16 or newer. Its tables are made by `bus.migrate()`. Throws `ConfigurationError` on
 * an unknown or wrong option.
 *
 * @example
 * const bus = createBus({ adapter: rabbitmq({ url }), store: postgres({ pool }) });
 * await bus.migrate();
 * await bus.transaction(async (tx, outbox) => {
 *   await tx.query("insert into orders …");
 *   await outbox.publish(OrderPlaced, order);
 * });
 */
export function postgres(options: PostgresOptions): Store<PostgresTransaction, PostgresHandle> {
  const settings = checkOptions(options);
  const tables = tablesOf(settings.schema);
  const database = new PostgresDatabase(settings);
  let databaseId = "";
  const meet = createMeet(database, tables, () => databaseId);
  return {
    name: "postgres",
    concurrentTransactions: !database.isPglite,
    migratesItself: false,
    async connect(context) {
      await database.connect(context);
      databaseId = await checkVersion(database, tables);
    },
    migrate: () => migrate(database, tables),
    async version() {
      const { have, known } = await readVersion(database, tables);
      return { have, known };
    },
    migrations: () => migrationTexts(tables),
    transaction: (fn, signal) => runTransaction(database, meet, fn, signal),
    outbox: {
      ...createOutboxStore(database, tables, createEmit(database, tables, meet)),
      // All that use a PGlite are in one process.
      ...(database.isPglite ? {} : createNotices(database, settings.schema)),
    },
    inbox: createInboxStore(database, tables, meet),
    prepared: createPreparedStore(database, tables),
    health: () => database.health(),
    close: () => database.close(),
  };
}
