/** Thin typed access to node:sqlite: loading it when it is needed, and statements prepared once per connection. */
import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import { ConfigurationError } from "../../src/spi.ts";

type NodeSqlite = typeof import("node:sqlite");

/**
 * The built-in driver. Loaded on use, because Node 22 prints an ExperimentalWarning when it is loaded, and importing
 * postrider must not. Throws `ERR_DEPENDENCY` where Node has none.
 */
export function nodeSqlite(): NodeSqlite {
  const module = process.getBuiltinModule("node:sqlite") as NodeSqlite | undefined;
  if (module !== undefined) return module;
  throw new ConfigurationError(
    "ERR_DEPENDENCY",
    `node:sqlite is not there in Node ${process.version}. Use Node >= 22.13, without --no-experimental-sqlite`,
  );
}

/** What a row's columns may be. */
export type Value = SQLInputValue;

/** A prepared statement; `order` says which value each of its parameters takes, where they are numbered. */
interface Prepared {
  readonly statement: StatementSync;
  readonly order: readonly number[] | undefined;
}

/**
 * One connection with its prepared statements. Texts are constants of this folder, so the cache stays small. Parameters are
 * `?` in order, or `?1`, `?2`, … to use one value twice.
 */
export class Sql {
  readonly db: DatabaseSync;
  readonly #statements = new Map<string, Prepared>();

  constructor(db: DatabaseSync) {
    this.db = db;
  }

  /** Runs a statement without a result; returns how many rows it changed. */
  run(text: string, ...values: Value[]): number {
    const { statement, order } = this.#prepare(text);
    return Number(statement.run(...inOrder(values, order)).changes);
  }

  /** Inserts one row; returns its rowid. */
  insert(text: string, ...values: Value[]): number {
    const { statement, order } = this.#prepare(text);
    return Number(statement.run(...inOrder(values, order)).lastInsertRowid);
  }

  /** The first row, if there is one. */
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the caller's SELECT says what a row is
  get<Row>(text: string, ...values: Value[]): Row | undefined {
    const { statement, order } = this.#prepare(text);
    return statement.get(...inOrder(values, order)) as Row | undefined;
  }

  all<Row>(text: string, ...values: Value[]): Row[] {
    const { statement, order } = this.#prepare(text);
    return statement.all(...inOrder(values, order)) as Row[];
  }

  #prepare(text: string): Prepared {
    let prepared = this.#statements.get(text);
    if (prepared === undefined) {
      prepared = prepare(this.db, text);
      this.#statements.set(text, prepared);
    }
    return prepared;
  }
}

/** Node 22.13 takes `?1` for the name of a parameter and binds no positional value to it, so numbers are resolved here. */
function prepare(db: DatabaseSync, text: string): Prepared {
  const order: number[] = [];
  const plain = text.replace(/\?(\d+)/gu, (_, number: string) => {
    order.push(Number(number) - 1);
    return "?";
  });
  return { statement: db.prepare(plain), order: order.length === 0 ? undefined : order };
}

function inOrder(values: readonly Value[], order: readonly number[] | undefined): readonly Value[] {
  return order === undefined ? values : order.map((index) => values[index] as Value);
}

/** The statements of transactions' own connections, for as long as those are open. */
const ofTransactions = new WeakMap<DatabaseSync, Sql>();

/** Keeps `db`'s prepared statements from now on. For connections of ours: a closed one is never opened again. */
export function keepStatements(db: DatabaseSync): void {
  ofTransactions.set(db, new Sql(db));
}

/** Statements on `db`, whoever opened it. */
export function sqlOn(db: DatabaseSync): Sql {
  return ofTransactions.get(db) ?? new Sql(db);
}
