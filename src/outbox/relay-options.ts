/** What `bus.relay` takes, checked. */
import { checkInteger, checkKeys, checkOneOf } from "../options.ts";

/** In which order rows leave. */
export type RelayOrder = "none" | "key" | "global";

export interface RelayOptions {
  /** Rows read at a time, 1..5000; at most twice as many are on their way. Default 500. */
  readonly batch?: number | undefined;
  /**
   * What keeps the order in which it was committed. Give all relays of one database the same; that goes for the one that a
   * process starts by itself when it consumes, with the default, unless `relay` was called before. Default `"key"`.
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
  readonly order: RelayOrder;
}

/** Throws `ERR_CONFIG` on what is unknown or wrong. */
export function checkRelayOptions(options: RelayOptions): CheckedRelayOptions {
  checkKeys("relay", options, ["batch", "order"]);
  const { batch = 500, order = "key" } = options;
  return {
    batch: checkInteger("relay batch", batch, 1, 5_000),
    order: checkOneOf("relay order", order, ["none", "key", "global"]),
  };
}
