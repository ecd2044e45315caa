/**
 * The client that handlers get: everything a `pg` client is while the transaction is open, nothing after. Without it, a
 * handler that goes on after its transaction ended would write into whatever the pooled connection does next.
 */
import type { PoolClient } from "pg";
import { StoreError } from "../../src/spi.ts";

export interface GuardedClient {
  readonly tx: PoolClient;
  readonly end: () => void;
}

const connections = new WeakMap<object, object>();

/** The connection behind a guarded client; anything else is its own. */
export function connectionOf(client: object): object {
  return connections.get(client) ?? client;
}

export function guardClient(client: PoolClient): GuardedClient {
  let ended = false;

  const query = (...args: unknown[]): unknown => {
    if (!ended) return (client.query as (...args: unknown[]) => unknown)(...args);
    const error = endedError();
    const callback = args.find((arg): arg is (error: Error) => void => typeof arg === "function");
    if (callback !== undefined) return callback(error);
    // pg-cursor, pg-query-stream: they have no promise to reject.
    if (typeof (args[0] as { readonly submit?: unknown } | null)?.submit === "function") throw error;
    return Promise.reject(error);
  };
  const refuse = (): never => {
    throw new StoreError(
      "ERR_TX",
      "this connection is the store's: it is released when the transaction ends",
    );
  };
  const replaced = new Map<PropertyKey, unknown>([
    ["query", query],
    ["release", refuse],
    ["end", refuse],
    ["getTransactionStatus", () => (ended ? null : client.getTransactionStatus())],
  ]);

  const tx = new Proxy(client, {
    get(target, property) {
      const own = replaced.get(property);
      if (own !== undefined && property in target) return own;
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === "function" && property !== "constructor"
        ? (value.bind(target) as unknown)
        : value;
    },
  });
  connections.set(tx, client);
  return { tx, end: () => void (ended = true) };
}

function endedError(): StoreError {
  return new StoreError(
    "ERR_TX",
    "the transaction has ended: everything done with `tx` must be awaited before the handler returns",
  );
}
