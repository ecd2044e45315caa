import { wrongKind } from "./handle.ts";
import { type OrmTransaction, ormTransaction } from "./orm.ts";

/** What is used of a `Transaction` or `ControlledTransaction` of Kysely. */
interface KyselyTransaction {
  readonly isTransaction: true;
  executeQuery(query: never): Promise<{ readonly rows: readonly unknown[] }>;
}

const source = "db.transaction().execute(async (trx) => …)";

/**
 * A transaction of Kysely on PostgreSQL for `bus.outbox`: what is published leaves if and only if it commits. Publishing
 * rejects with `ERR_TX` when it has ended. Throws `ERR_TX` when given anything else, such as the `Kysely` itself.
 *
 * @example
 * await db.transaction().execute(async (trx) => {
 *   await trx.insertInto("orders").values(order).execute();
 *   await bus.outbox(fromKysely(trx)).publish(OrderPlaced, order);
 * });
 */
export function fromKysely(trx: KyselyTransaction): OrmTransaction {
  const { isTransaction, executeQuery } = (trx ?? {}) as Partial<KyselyTransaction>;
  if (isTransaction !== true || typeof executeQuery !== "function")
    throw wrongKind("fromKysely takes a transaction of Kysely", source, trx);
  return ormTransaction({
    tx: trx,
    single: true,
    remedy: `this transaction of Kysely: publish inside of ${source}, and await it`,
    async run(sql, parameters) {
      // What `CompiledQuery.raw` makes.
      const query = {
        sql,
        parameters,
        query: { kind: "RawNode", sqlFragments: [sql], parameters: [] },
        queryId: { queryId: "postrider" },
      };
      return (await trx.executeQuery(query as never)).rows;
    },
    errorOf: (error) => (/already (?:committed|rolled back)/u.test(String(error)) ? undefined : error),
  });
}
