/** The relays of one bus: those that were asked for, and the one that it starts by itself. */
import { createAnnouncer } from "./announcer.ts";
import { type CheckedRelayOptions, type RelayOptions, checkRelayOptions } from "./relay-options.ts";
import { type Relay, type RelayContext, startRelay } from "./relay.ts";

export interface Relays {
  /** Starts a relay as the user wants it, in the place of the bus's own. Throws `ERR_CONFIG`. */
  start(options: RelayOptions): Relay;
  /** Starts the bus's own, unless there is any. */
  ensure(): void;
  /** There may be rows: also tells relays of other processes when the one that works is not here. */
  wake(): void;
  all(): readonly Relay[];
}

export function createRelays(context: Omit<RelayContext, "onClosed">): Relays {
  const { runtime, store } = context;
  const { outbox } = store;
  const relays = new Set<Relay>();
  const announce =
    outbox.announce === undefined
      ? () => undefined
      : createAnnouncer(runtime, async () => outbox.announce?.());
  let own: Relay | undefined;

  const start = (options: CheckedRelayOptions, after?: Promise<void>): Relay => {
    const ready = async (): Promise<void> => {
      await after;
      await context.ready();
    };
    const onClosed = (closed: Relay): void => void relays.delete(closed);
    const relay = startRelay({ ...context, ready, onClosed }, options);
    relays.add(relay);
    return relay;
  };

  return {
    start(options) {
      const checked = checkRelayOptions(options);
      const before = own?.close();
      own = undefined;
      return start(checked, before);
    },
    ensure() {
      if (relays.size === 0) own = start(checkRelayOptions({}));
    },
    wake() {
      for (const relay of relays) relay.wake();
      if (!Array.from(relays).some((relay) => relay.health().active)) announce();
    },
    all: () => Array.from(relays),
  };
}
