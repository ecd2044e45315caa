/** Transactions of PGlite, as the user's callback is given them. */
import type { TransactionHandle } from "./handle.ts";
import type { Row } from "./connection.ts";
import { ended } from "./orm.ts";

/** What is used of a `Transaction` of `@electric-sql/pglite`. */
export interface PgliteTransaction {
  readonly closed: boolean;
  query(text: string, values?: never, options?: never): Promise<{ readonly rows: readonly unknown[] }>;
  rollback(): Promise<void>;
}

type Query = (
  text: string,
  values: readonly unknown[],
  options: { readonly rowMode: "array" },
) => Promise<{ readonly rows: readonly Row[] }>;

/** PGlite itself has no `rollback`. */
export function pgliteHandle(handle: object): TransactionHandle | undefined {
  const tx = handle as Partial<PgliteTransaction>;
  if (typeof tx.query !== "function" || typeof tx.rollback !== "function") return undefined;
  if (typeof tx.closed !== "boolean") return undefined;
  const query = tx.query.bind(tx) as unknown as Query;
  return {
    connection: handle,
    single: true,
    processId: undefined,
    remedy: "this transaction of PGlite: publish inside of db.transaction(async (tx) => …), and await it",
    state: () => (tx.closed === true ? "none" : "unknown"),
    async run({ text, values = [] }) {
      const { rows } = await query(text, values, { rowMode: "array" }).catch((error: unknown) => {
        throw tx.closed === true ? ended(error) : error;
      });
      return { rows, after: "unknown" };
    },
  };
}
