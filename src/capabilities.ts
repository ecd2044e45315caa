/** What an adapter can do: plain declared data, read by the core at start and by the conformance suite. */
import { ConfigurationError } from "./errors.ts";

/** How far a send got before it was confirmed. */
export type Durability = "none" | "accepted" | "replicated";

export const durabilities: readonly Durability[] = ["none", "accepted", "replicated"];

export interface Capabilities {
  /** Messages survive the end of the process (and of the broker, where there is one). */
  readonly persistent: boolean;
  /** There is a server that can be cut off or restarted while the process lives. */
  readonly server: boolean;
  /** Messages of a topic wait for its first group. `false`: publishing to a topic without a group is `ERR_NO_ROUTE`. */
  readonly retains: boolean;
  /** `"key"`: order per key is kept for consumers that ask for it. `"none"`: asking is refused at start. */
  readonly ordering: "key" | "none";
  /** The broker counts hand-overs, so that a message that kills its process again and again is found. */
  readonly deliveryCount: boolean;
  /** `"atomic"`: retry and dead letter are one step with the ack. `"copy"`: confirmed copy, then ack (a crash between the two duplicates). */
  readonly settlement: "atomic" | "copy";
  /** A message published twice with one id, or one idempotency key, within the broker's window is stored once. */
  readonly dedupe: boolean;
  /** Levels of `publish({ durability })` it offers. */
  readonly durability: readonly Durability[];
  /** Longest delay of a retry or a delayed publish, in milliseconds. */
  readonly maxDelayMs: number;
  /** A delayed message can be taken back while it waits: `bus.cancel`. */
  readonly cancel: boolean;
  /** Largest body in bytes. */
  readonly maxBytes: number;
}

/** `ERR_CAPABILITY`: what was asked for, of whom, and what helps. */
export function capabilityError(adapter: string, wanted: string, remedy: string): ConfigurationError {
  return new ConfigurationError("ERR_CAPABILITY", `adapter "${adapter}" ${wanted}. ${remedy}`);
}
