/** What `bus.relay` takes, checked. */
import { checkInteger, checkKeys, checkOneOf } from "../options.ts";
import type { RelayOrder } from "../store.ts";

export interface RelayOptions {
  /** Rows read at a time, 1..5000; at most twice as many are on their way. Default 500. */
  readonly batch?: number | undefined;
  /**
   * What keeps the order in which it was committed. Stored in the database, and one for all of its relays: those that name
   * none follow the last that was named, so do those that a bus starts by itself, within seconds when they are at work. A
   * relay that names another than the one at work has named stands by until that ends, with `ERR_CONFIG` in its health and
   * in an event `relayFailed`; then its own holds. Default: the stored one; `"key"` when none was ever named.
   *
   * - `"none"`: nothing, keys included. A message that fails keeps no other from leaving.
   * - `"key"`: the messages of one key within its topic. The next one leaves when the one before is confirmed.
   * - `"global"`: all messages, one at a time. While a transaction that may have sent something stays open, what was sent
   *   after it waits; so does everything behind a topic that refuses.
   */
  readonly order?: RelayOrder | undefined;
}

export interface CheckedRelayOptions {
  readonly batch: number;
  /** `undefined`: the stored one. */
  readonly order: RelayOrder | undefined;
}

/** Throws `ERR_CONFIG` on what is unknown or wrong. */
export function checkRelayOptions(options: RelayOptions): CheckedRelayOptions {
  checkKeys("relay", options, ["batch", "order"]);
  const { batch = 500, order } = options;
  return {
    batch: checkInteger("relay batch", batch, 1, 5_000),
    order: order === undefined ? undefined : checkOneOf("relay order", order, ["none", "key", "global"]),
  };
}
