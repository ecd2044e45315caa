import { wrongKind } from "./handle.ts";
import { type OrmTransaction, ormTransaction } from "./orm.ts";

/** What is used of an `EntityManager` of TypeORM. */
interface TypeormManager {
  readonly queryRunner?: { readonly isTransactionActive: boolean } | undefined;
  query(query: string, parameters: never): Promise<unknown>;
  /** Only a `DataSource` or a `QueryRunner` has it. */
  readonly manager?: never;
}

const source = "dataSource.transaction(async (manager) => …) or queryRunner.manager";

/**
 * The `EntityManager` of a transaction of TypeORM on PostgreSQL for `bus.outbox`: what is published leaves if and only if
 * it commits. Publishing rejects with `ERR_TX` when no transaction is open. Throws `ERR_TX` when given anything else, such
 * as `dataSource.manager`.
 *
 * @example
 * await dataSource.transaction(async (manager) => {
 *   await manager.insert(Order, order);
 *   await bus.outbox(fromTypeorm(manager)).publish(OrderPlaced, order);
 * });
 */
export function fromTypeorm(manager: TypeormManager): OrmTransaction {
  const { queryRunner, query } = (manager ?? {}) as Partial<TypeormManager>;
  if (typeof query !== "function" || queryRunner === undefined)
    throw wrongKind("fromTypeorm takes the EntityManager of a transaction", source, manager);
  return ormTransaction({
    tx: manager,
    // A query runner can begin another.
    single: false,
    remedy: `this EntityManager: take it from ${source}, and await what you publish`,
    isClosed: () => !queryRunner.isTransactionActive,
    run: (text, values) => manager.query(text, values as never),
    errorOf: (error) => {
      if ((error as Error | undefined)?.name === "QueryRunnerProviderAlreadyReleasedError") return undefined;
      return (error as { readonly driverError?: unknown }).driverError ?? error;
    },
  });
}
