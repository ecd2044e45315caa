/** Channels whose end is always known, and whose errors reach nobody else. */
import type { Channel, ConfirmChannel } from "amqplib";
import type { MessagingError } from "../../src/spi.ts";
import type { Session } from "./connection.ts";
import { channelError, connectionLost } from "./errors.ts";

export interface OpenChannel<C extends Channel = Channel> {
  readonly channel: C;
  /** Aborted with a `MessagingError` when the channel is of no more use: closed by us or the server, or its connection lost. */
  readonly ended: AbortSignal;
  /** Resolves when the server has closed it as well, or its connection is gone. */
  readonly gone: Promise<void>;
  /** Ends it from our side, for this reason. What is unacknowledged on it goes back to its queue. */
  abandon(why: MessagingError): void;
}

/** Opens a channel for `what`, which its errors are named after. Rejects with a `MessagingError`. */
export async function openChannel(session: Session, what: string): Promise<OpenChannel> {
  return watch(session, what, await opening(what, session.model.createChannel()));
}

/** Opens a channel on which the server confirms what is published. */
export async function openConfirmChannel(
  session: Session,
  what: string,
): Promise<OpenChannel<ConfirmChannel>> {
  return watch(session, what, await opening(what, session.model.createConfirmChannel()));
}

/**
 * Runs `act` on a channel of its own: the server closes a channel on which anything was wrong, with all that is under
 * way on it. Rejects with a `MessagingError`.
 */
export async function onThrowAwayChannel<T>(
  session: Session,
  what: string,
  act: (channel: Channel) => Promise<T>,
): Promise<T> {
  const { channel, ended } = await openChannel(session, what);
  try {
    return await act(channel);
  } catch (error) {
    throw channelError(error, what);
  } finally {
    // Nothing depends on its end; if it is gone already, so much the better.
    if (!ended.aborted) channel.close().catch(() => undefined);
  }
}

async function opening<C extends Channel>(what: string, channel: Promise<C>): Promise<C> {
  try {
    return await channel;
  } catch (error) {
    throw channelError(error, what);
  }
}

function watch<C extends Channel>(session: Session, what: string, channel: C): OpenChannel<C> {
  const ended = new AbortController();
  const { promise: gone, resolve: onGone } = Promise.withResolvers<void>();
  let cause: unknown;
  const end = (why: MessagingError): void => {
    if (!ended.signal.aborted) ended.abort(why);
  };
  const abandon = (why: MessagingError): void => {
    end(why);
    // Fails when it is closed already, which is what was wanted.
    channel.close().catch(() => undefined);
  };
  // It may have ended together with its connection before anybody could listen.
  if (session.ended.aborted) {
    end(connectionLost(session.ended.reason, what));
    onGone();
  }
  channel.on("error", (error) => (cause = error));
  channel.on("close", () => {
    if (session.ended.aborted) end(connectionLost(session.ended.reason, what));
    else end(channelError(cause ?? new Error("channel closed"), what));
    onGone();
  });
  // A listener of ours threw, or a delivery came for a consumer that is gone: start afresh rather than leak what it was.
  channel.on("handler-error", (error) => abandon(connectionLost(error, `the channel of ${what}`)));
  return { channel, ended: ended.signal, gone, abandon };
}
