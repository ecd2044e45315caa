import { wrongKind } from "./handle.ts";
import { type OrmTransaction, ormTransaction } from "./orm.ts";

/** What is used of a transaction of Drizzle, whatever its driver for PostgreSQL. */
interface DrizzleTransaction {
  execute(query: never): PromiseLike<unknown>;
  rollback(): never;
}

const source = "db.transaction(async (tx) => …)";

/**
 * A transaction of Drizzle on PostgreSQL for `bus.outbox`: what is published leaves if and only if it commits. Drizzle
 * does not know when a transaction has ended: publishing then rejects with `ERR_TX` as long as nobody else has begun one on
 * the same connection, so await what you publish. Throws `ERR_TX` when given anything else, such as the database itself.
 *
 * @example
 * await db.transaction(async (tx) => {
 *   await tx.insert(orders).values(order);
 *   await bus.outbox(fromDrizzle(tx)).publish(OrderPlaced, order);
 * });
 */
export function fromDrizzle(tx: DrizzleTransaction): OrmTransaction {
  const { execute, rollback } = (tx ?? {}) as Partial<DrizzleTransaction>;
  if (typeof execute !== "function" || typeof rollback !== "function")
    throw wrongKind("fromDrizzle takes a transaction of Drizzle on PostgreSQL", source, tx);
  return ormTransaction({
    tx,
    single: true,
    remedy: `this transaction of Drizzle: publish inside of ${source}, and await it`,
    async run(sql, params) {
      // What its `sql` makes, which here nobody has to hand in.
      const query = { getSQL: () => ({ toQuery: () => ({ sql, params }) }) };
      const result = await tx.execute(query as never);
      // `postgres` gives the rows themselves.
      return Array.isArray(result) ? Array.from(result) : (result as { readonly rows: unknown }).rows;
    },
    // Its own message contains the parameters.
    errorOf: (error) => (error as { readonly cause?: unknown }).cause ?? error,
  });
}
