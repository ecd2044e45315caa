/** Faults on demand: what a network and a server do to other adapters, a test does to this one. */
import type { MessagingError } from "../../src/spi.ts";

export type MemoryOperation =
  | "connect"
  | "declare"
  | "publish"
  | "cancel"
  | "subscribe"
  | "ack"
  | "defer"
  | "deadLetter"
  | "release"
  | "extend";

export interface MemoryFaults {
  /**
   * Called before an operation takes effect. An error makes it fail with no effect; a pending promise holds it back.
   */
  before?:
    | ((operation: MemoryOperation) => MessagingError | undefined | Promise<MessagingError | undefined>)
    | undefined;
  /** Called after an operation took effect. An error means that its answer was lost; a pending promise that it is late. */
  after?:
    | ((operation: MemoryOperation) => MessagingError | undefined | Promise<MessagingError | undefined>)
    | undefined;
  /** Cuts the connection: deliveries under way are lost and come again; it is mended at once, as far as `before` lets it. */
  disconnect(): void;
  /** The subscriptions there are now receive nothing any more, and do not notice: what a reading loop does that hangs. */
  deafen(): void;
}
