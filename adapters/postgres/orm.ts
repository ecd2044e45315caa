/**
 * What the transactions of ORMs have in common: they run a text with parameters and give rows as objects, and they cannot
 * say what became of the transaction on the server. The server is asked instead; see `emit.ts`.
 */
import { StoreError } from "../../src/spi.ts";
import type { Row } from "./connection.ts";
import type { TransactionHandle } from "./handle.ts";

const handle: unique symbol = Symbol("handle");

/** A transaction of an ORM, as `fromKysely` and its like give it to `bus.outbox`. */
export interface OrmTransaction {
  readonly [handle]: TransactionHandle;
}

interface Orm {
  /** The ORM's own object. */
  readonly tx: object;
  /** Each transaction has such an object of its own. */
  readonly single: boolean;
  readonly remedy: string;
  /** The ORM knows that there is no open transaction. */
  readonly isClosed?: () => boolean;
  /** Resolves with the rows. Parameters are `$1`, `$2`, … */
  readonly run: (text: string, values: readonly unknown[]) => PromiseLike<unknown>;
  /** The driver's error of what `run` rejects with; `undefined` when the transaction has ended. */
  readonly errorOf: (error: unknown) => unknown;
}

export function ormTransaction(orm: Orm): OrmTransaction {
  const state = (): "none" | "unknown" => (orm.isClosed?.() === true ? "none" : "unknown");
  return {
    [handle]: {
      connection: orm.tx,
      single: orm.single,
      processId: undefined,
      remedy: orm.remedy,
      state,
      async run({ text, values = [] }) {
        try {
          return { rows: rowsOf(await orm.run(text, values)), after: "unknown" };
        } catch (error) {
          throw orm.errorOf(error) ?? ended(error);
        }
      },
    },
  };
}

export function handleOfOrm(given: object): TransactionHandle | undefined {
  return (given as Partial<OrmTransaction>)[handle];
}

export function ended(cause: unknown): StoreError {
  return new StoreError("ERR_TX", "the transaction has ended: publish, and await it, before it does", {
    cause,
  });
}

/** Objects by column, in the order of the columns; ours have distinct names, and each cell is text. */
function rowsOf(rows: unknown): Row[] {
  if (!Array.isArray(rows)) throw new TypeError("the ORM returned no rows");
  return rows.map((row: object) => Object.values(row) as Row);
}
