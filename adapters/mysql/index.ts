/**
 * The store on MariaDB and MySQL: outbox, inbox and idempotency in the user's own database, MariaDB 10.6 or MySQL 8.0, or
 * newer.
 *
 * What the server sees: a handful of small InnoDB tables, short statements of relay and inbox at READ COMMITTED, and two
 * statements per send in the transactions of users, one for locks and one for rows. All of it is text without prepared
 * statements, nothing needs the PROCESS privilege, and only a migration takes a lock by name. `seq` is the table's
 * AUTO_INCREMENT: write on one node of a cluster, else messages of one key may leave in another order than they were
 * committed in.
 */
import type { Connection as CallbackConnection } from "mysql2";
import type { Connection, PoolConnection } from "mysql2/promise";
import type { Store } from "../../src/spi.ts";
import { createMeet } from "./acquaintance.ts";
import { MysqlDatabase } from "./connection.ts";
import { createEmit } from "./emit.ts";
import { createInboxStore } from "./inbox.ts";
import { checkVersion, migrate, migrationTexts, readVersion } from "./migrations.ts";
import { type MysqlOptions, checkOptions } from "./options.ts";
import { createOutboxStore } from "./outbox.ts";
import { createPreparedStore } from "./prepared.ts";
import { tablesOf } from "./tables.ts";
import { runTransaction } from "./transaction.ts";

export type { MysqlOptions } from "./options.ts";

/**
 * What handlers get as `ctx.tx`: a connection of `mysql2/promise` that works until its transaction ends, and refuses with
 * `ERR_TX` after.
 */
export type MysqlTransaction = PoolConnection;

/** What `bus.outbox` takes: a connection of `mysql2/promise` or `mysql2` on which a transaction is open. */
export type MysqlHandle = Connection | CallbackConnection;

/**
 * A store in MariaDB or MySQL. Needs `mysql2` 3.11 or newer. Its tables are made by `bus.migrate()`. Throws
 * `ConfigurationError` on an unknown or wrong option.
 *
 * @example
 * const bus = createBus({ adapter: rabbitmq({ url }), store: mysql({ pool }) });
 * await bus.migrate();
 * await bus.transaction(async (tx, outbox) => {
 *   await tx.execute("insert into orders …");
 *   await outbox.publish(OrderPlaced, order);
 * });
 */
export function mysql(options: MysqlOptions): Store<MysqlTransaction, MysqlHandle> {
  const settings = checkOptions(options);
  const database = new MysqlDatabase(settings);
  let databaseId = "";
  const meet = createMeet(database, () => databaseId);
  return {
    name: "mysql",
    concurrentTransactions: true,
    migratesItself: false,
    async connect(context) {
      await database.connect(context);
      databaseId = await checkVersion(database);
    },
    migrate: () => migrate(database),
    async version() {
      await database.identify();
      const { have, known } = await readVersion(database);
      return { have, known };
    },
    migrations: () => migrationTexts(tablesOf(undefined, settings.prefix)),
    transaction: (fn, signal) => runTransaction(database, meet, fn, signal),
    outbox: createOutboxStore(database, createEmit(database, meet)),
    inbox: createInboxStore(database, meet),
    prepared: createPreparedStore(database),
    health: () => database.health(),
    close: () => database.close(),
  };
}
