import { wrongKind } from "./handle.ts";
import { type OrmTransaction, ormTransaction } from "./orm.ts";

/** What is used of a `Transaction` of Knex. */
interface KnexTransaction {
  isCompleted(): boolean;
  raw(sql: string, bindings: never): PromiseLike<unknown>;
}

const source = "knex.transaction(async (trx) => …)";

/**
 * A transaction of Knex on PostgreSQL for `bus.outbox`: what is published leaves if and only if it commits. Publishing
 * rejects with `ERR_TX` when it has ended. Throws `ERR_TX` when given anything else, such as `knex` itself.
 *
 * @example
 * await knex.transaction(async (trx) => {
 *   await trx("orders").insert(order);
 *   await bus.outbox(fromKnex(trx)).publish(OrderPlaced, order);
 * });
 */
export function fromKnex(trx: KnexTransaction): OrmTransaction {
  const { isCompleted, raw } = (trx ?? {}) as Partial<KnexTransaction>;
  if (typeof isCompleted !== "function" || typeof raw !== "function")
    throw wrongKind("fromKnex takes a transaction of Knex", source, trx);
  return ormTransaction({
    tx: trx,
    single: true,
    remedy: `this transaction of Knex: publish inside of ${source}, and await it`,
    isClosed: () => trx.isCompleted(),
    async run(text, values) {
      const bindings: unknown[] = [];
      const sql = text.replace(/\$(\d+)/gu, (_, n: string) => {
        bindings.push(values[Number(n) - 1]);
        return "?";
      });
      const result = await trx.raw(sql, bindings as never);
      return (result as { readonly rows: unknown }).rows;
    },
    errorOf: (error) => (trx.isCompleted() ? undefined : withoutStatement(error)),
  });
}

/** Knex puts the statement, parameters and all, in front of what the server says. */
function withoutStatement(error: unknown): unknown {
  const { code, severity } = error as { readonly code?: unknown; readonly severity?: unknown };
  if (!(error instanceof Error) || severity === undefined) return error;
  const message = error.message.split(" - ").at(-1);
  return Object.assign(new Error(message, { cause: error }), { code, severity });
}
