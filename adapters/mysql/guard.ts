/**
 * The connection that handlers get: everything a `mysql2` connection is while the transaction is open, nothing after.
 * Without it, a handler that goes on after its transaction ended would write into whatever the pooled connection does next.
 * A transaction may also end before its handler: by a DDL statement, which commits, or by a deadlock, which rolls back. The
 * server says so in its answer, and would take what follows statement by statement.
 */
import type { PoolConnection } from "mysql2/promise";
import { StoreError } from "../../src/spi.ts";
import { isInTransaction } from "./query.ts";

export interface GuardedConnection {
  readonly tx: PoolConnection;
  /** What the handler gets from now on. */
  end(): void;
  /** Set when a statement of the handler has ended the transaction. */
  readonly endedEarly: StoreError | undefined;
}

const connections = new WeakMap<object, object>();

/** The connection behind a guarded one; anything else is its own. */
export function connectionOf(connection: object): object {
  return connections.get(connection) ?? connection;
}

/** What talks to the server. */
const statements: ReadonlySet<PropertyKey> = new Set(["execute", "ping", "query"]);

/** What is the store's to do, or would let statements pass unseen. */
const refused: ReadonlySet<PropertyKey> = new Set([
  "beginTransaction",
  "changeUser",
  "commit",
  "destroy",
  "end",
  "prepare",
  "release",
  "reset",
  "rollback",
]);

type Method = (...args: unknown[]) => unknown;

/** `rollsBack` tells errors after which the server has rolled back the whole transaction. */
export function guardConnection(
  connection: PoolConnection,
  rollsBack: (error: unknown) => boolean,
): GuardedConnection {
  let ended = false;
  let endedEarly: StoreError | undefined;

  const answered = (result: unknown): void => {
    const results: unknown[] = Array.isArray(result) ? result : [result];
    if (results.some((one) => isInTransaction(one) === false)) endedEarly ??= committedError();
  };
  const failed = (error: unknown): void => {
    if (rollsBack(error)) endedEarly ??= rolledBackError(error);
  };
  const refusal = (property: PropertyKey, args: readonly unknown[]): StoreError | undefined => {
    if (ended) return endedError();
    if (endedEarly !== undefined) return endedEarly;
    return refused.has(property) || beginsTransaction(args[0]) ? refusedError(property) : undefined;
  };

  /** That of `mysql2/promise`. */
  const promising = (method: Method, property: PropertyKey) => {
    return async (...args: unknown[]): Promise<unknown> => {
      const error = refusal(property, args);
      if (error !== undefined) throw error;
      try {
        const result = (await Reflect.apply(method, connection, args)) as unknown[] | undefined;
        answered(result?.[0]);
        return result;
      } catch (cause) {
        failed(cause);
        throw cause;
      }
    };
  };

  /** That of `mysql2` itself, with a callback or with events. */
  const calling = (method: Method, property: PropertyKey) => {
    return (...args: unknown[]): unknown => {
      const error = refusal(property, args);
      const callback = args.at(-1);
      if (typeof callback !== "function") {
        if (error !== undefined) throw error;
        return Reflect.apply(method, connection.connection, args);
      }
      if (error !== undefined) return Reflect.apply(callback, undefined, [error]) as unknown;
      const noted = (cause: unknown, result: unknown, ...rest: unknown[]): unknown => {
        if (cause) failed(cause);
        else answered(result);
        return Reflect.apply(callback, undefined, [cause, result, ...rest]) as unknown;
      };
      return Reflect.apply(method, connection.connection, [...args.slice(0, -1), noted]);
    };
  };

  const guarded = <T extends object>(
    target: T,
    guard: (method: Method, property: PropertyKey) => Method,
    replaced: Readonly<Record<string, () => unknown>>,
  ): T =>
    new Proxy(target, {
      get(_target, property) {
        const own = typeof property === "string" && Object.hasOwn(replaced, property);
        if (own) return replaced[property]?.();
        const value: unknown = Reflect.get(target, property, target);
        if (typeof value !== "function" || property === "constructor") return value;
        const method = value as Method;
        return statements.has(property) || refused.has(property)
          ? guard(method, property)
          : method.bind(target);
      },
    });

  const inner: object = guarded(connection.connection, calling, { promise: () => () => tx });
  const tx: PoolConnection = guarded(connection, promising, { connection: () => inner });
  connections.set(inner, connection.connection);
  return {
    tx,
    end: () => void (ended = true),
    get endedEarly() {
      return endedEarly;
    },
  };
}

/** It would commit what was done so far, and the server's answer would not show it. */
function beginsTransaction(statement: unknown): boolean {
  const text =
    typeof statement === "object" && statement !== null && "sql" in statement ? statement.sql : statement;
  return typeof text === "string" && /^\s*(?:begin|start\s+transaction)\b/iu.test(text);
}

function endedError(): StoreError {
  return new StoreError(
    "ERR_TX",
    "the transaction has ended: everything done with `tx` must be awaited before the handler returns",
  );
}

function committedError(): StoreError {
  return new StoreError(
    "ERR_TX",
    "the transaction was ended by the handler itself, with a COMMIT, a ROLLBACK, or a statement that commits, as DDL does: what it does after that would take effect statement by statement",
  );
}

function rolledBackError(cause: unknown): StoreError {
  return new StoreError(
    "ERR_TX",
    "the server has rolled the transaction back, and the handler went on: let its error through",
    { cause },
  );
}

function refusedError(method: PropertyKey): StoreError {
  const text =
    method === "prepare"
      ? "use execute, which prepares by itself"
      : "the store begins and ends this transaction, and releases its connection";
  return new StoreError("ERR_TX", `${String(method)}: ${text}`);
}
