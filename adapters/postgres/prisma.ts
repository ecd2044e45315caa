import { wrongKind } from "./handle.ts";
import { type OrmTransaction, ormTransaction } from "./orm.ts";

/** What is used of the client that Prisma gives to an interactive transaction. */
interface PrismaTransaction {
  $queryRawUnsafe(query: string, ...values: never): PromiseLike<unknown>;
  /** Only the `PrismaClient` itself has it. */
  readonly $connect?: never;
}

const source = "prisma.$transaction(async (tx) => …)";

/**
 * An interactive transaction of Prisma on PostgreSQL for `bus.outbox`: what is published leaves if and only if it commits.
 * Publishing rejects with `ERR_TX` when it has ended, also by its own timeout (5 s unless set). Throws `ERR_TX` when given
 * anything else, such as the `PrismaClient` itself.
 *
 * @example
 * await prisma.$transaction(async (tx) => {
 *   await tx.orders.create({ data: order });
 *   await bus.outbox(fromPrisma(tx)).publish(OrderPlaced, order);
 * });
 */
export function fromPrisma(tx: PrismaTransaction): OrmTransaction {
  const { $queryRawUnsafe, $connect } = (tx ?? {}) as Partial<PrismaTransaction>;
  if (typeof $queryRawUnsafe !== "function" || $connect !== undefined)
    throw wrongKind("fromPrisma takes the client of an interactive transaction", source, tx);
  return ormTransaction({
    tx,
    single: true,
    remedy: `this transaction of Prisma: publish inside of ${source}, and await it`,
    run: (text, values) => tx.$queryRawUnsafe(text, ...(values as never)),
    errorOf,
  });
}

/** Prisma's errors, as of version 7: the server's words are inside, as a plain object. */
interface PrismaError {
  readonly code?: unknown;
  readonly meta?: {
    readonly driverAdapterError?: {
      readonly cause?: { readonly originalCode?: string; readonly originalMessage?: string };
    };
  };
}

function errorOf(error: unknown): unknown {
  const { code, meta } = error as PrismaError;
  // "Transaction API error": it is closed, or has timed out.
  if (code === "P2028") return undefined;
  const { originalCode, originalMessage } = meta?.driverAdapterError?.cause ?? {};
  if (originalCode === undefined) return error;
  return Object.assign(new Error(originalMessage, { cause: error }), {
    code: originalCode,
    severity: "ERROR",
  });
}
