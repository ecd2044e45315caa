/** Everything of one adapter that exists while it is connected. */
import type { AdapterContext, MessagingError } from "../../src/spi.ts";
import { Link, type LinkListener, type Session } from "./connection.ts";
import { DelayLadder } from "./delay.ts";
import { loadClient } from "./dial.ts";
import { brokerFull, closed } from "./errors.ts";
import type { Settings } from "./options.ts";
import { Publisher } from "./publisher.ts";
import { checkServer, checkSecurity } from "./server.ts";
import { Declarations } from "./topology.ts";

type Emit = AdapterContext["emit"];

export interface Broker {
  readonly context: AdapterContext;
  /** Consumes, declares and reads dead letters. Never publishes, so that an alarm does not hold back acks. */
  readonly link: Link;
  readonly declarations: Declarations;
  readonly ladder: DelayLadder;
  readonly publisher: Publisher;
  health(): { readonly connected: boolean; readonly error?: MessagingError | undefined };
  close(): Promise<void>;
}

/**
 * Opens both connections and checks the server. Rejects as `Adapter.connect` does, or with the reason of `signal`, and leaves
 * nothing open then.
 */
export async function connectBroker(
  settings: Settings,
  context: AdapterContext,
  signal: AbortSignal,
): Promise<Broker> {
  const { runtime } = context;
  const emit: Emit = (event) => context.emit(event);
  const dialling = { client: await loadClient(), runtime, settings };
  const announcer = announce(emit);
  const publishLink: Link = new Link({
    ...dialling,
    role: "publish",
    listener: {
      ...announcer.listener("publish"),
      blockedChanged({ blocked, address }) {
        if (blocked === undefined) return publisher.resume();
        const message = `RabbitMQ at ${address} takes no messages now: ${blocked}. Consuming goes on.`;
        emit({ type: "warning", code: "BLOCKED", message });
      },
    },
  });
  const onConsume = announcer.listener("consume");
  const consumeLink: Link = new Link({
    ...dialling,
    role: "consume",
    listener: {
      ...onConsume,
      opened(session) {
        onConsume.opened(session);
        redeclare(declarations, session, emit);
      },
    },
  });
  const declarations = new Declarations(context, consumeLink);
  const ladder = new DelayLadder(context, declarations);
  const publisher = new Publisher({
    runtime,
    declarations,
    ladder,
    consumeLink,
    link: publishLink,
    confirmWindow: settings.confirmWindow,
    confirmTimeoutMs: settings.confirmTimeoutMs,
    overdue: ({ message }) => emit({ type: "warning", code: "CONFIRM_OVERDUE", message }),
  });
  const close = async (): Promise<void> => {
    publisher.close(closed());
    await Promise.all([publishLink.close(), consumeLink.close()]);
  };

  const onAbort = (): void => void close();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await Promise.all([publishLink.connect(), consumeLink.connect()]);
    checkServer((await consumeLink.ready()).model, emit);
    signal.throwIfAborted();
  } catch (error) {
    await close();
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
  checkSecurity(settings, emit);
  announcer.begin();
  return {
    context,
    link: consumeLink,
    declarations,
    ladder,
    publisher,
    health() {
      const lost = publishLink.error ?? consumeLink.error;
      const blocked = publishLink.session?.blocked;
      const error = lost ?? (blocked === undefined ? undefined : brokerFull(blocked));
      return { connected: lost === undefined, error };
    },
    close,
  };
}

/** The server on the other end of a new connection may be another one, or have lost everything. */
function redeclare(declarations: Declarations, session: Session, emit: Emit): void {
  declarations.redeclare(session).catch((error: MessagingError) => {
    // If the connection was lost again, the next one comes by here as well.
    if (error.code === "ERR_CONNECTION_LOST") return;
    emit({ type: "warning", code: "REDECLARE", message: `after a reconnect: ${error.message}` });
  });
}

/** Two connections are one to the outside: connected when both are, disconnected as soon as one is not. */
function announce(emit: Emit): {
  /** Says `connected` for the first time. */
  begin(): void;
  listener(role: string): LinkListener;
} {
  const adapter = "rabbitmq";
  const down = new Set<string>();
  return {
    begin: () => emit({ type: "connected", adapter }),
    listener: (role) => ({
      opened() {
        if (down.delete(role) && down.size === 0) emit({ type: "connected", adapter });
      },
      lost(error) {
        down.add(role);
        if (down.size === 1) emit({ type: "disconnected", adapter, error });
      },
      failed(attempt, delayMs, error) {
        // Both fail for the same reason; one says so.
        if (down.values().next().value === role)
          emit({ type: "reconnecting", adapter, attempt, delayMs, error });
      },
      blockedChanged: () => undefined,
    }),
  };
}
