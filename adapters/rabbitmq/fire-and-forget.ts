/** `durability: "none"`: written and forgotten, but in bounded memory, and not into a connection known to be gone. */
import type { Channel } from "amqplib";
import type { MessagingError, PublishResult } from "../../src/spi.ts";
import { type OpenChannel, openChannel } from "./channel.ts";
import type { Link, Session } from "./connection.ts";
import { brokerFull, connectionLost, unwritable } from "./errors.ts";
import type { Parcel } from "./outlet.ts";

const name = "publishing without confirms";

export class FireAndForget {
  readonly #link: Link;
  readonly #mend: (error: MessagingError) => Promise<void>;
  #opening: Promise<OpenChannel> | undefined;

  /** `mend` is told why the server closed the channel. */
  constructor(link: Link, mend: (error: MessagingError) => Promise<void>) {
    this.#link = link;
    this.#mend = mend;
  }

  /** Resolves when it is written to the socket's buffer, or cannot be. Never rejects. */
  async publish({ exchange, routingKey, body, properties }: Parcel): Promise<PublishResult> {
    const { session, error } = this.#link;
    if (session === undefined)
      return { status: "rejected", error: error ?? connectionLost(undefined, "the connection") };
    if (session.blocked !== undefined) return { status: "rejected", error: brokerFull(session.blocked) };
    try {
      const { channel, ended } = await this.#channel(session);
      if (!channel.publish(exchange, routingKey, body, properties)) await drained(channel, ended);
      return { status: "accepted", durability: "none" };
    } catch (cause) {
      const wrong = cause instanceof TypeError || cause instanceof RangeError;
      const { messageId = "" } = properties;
      return {
        status: "rejected",
        error: wrong ? unwritable(messageId, String(cause), cause) : connectionLost(cause, name),
      };
    }
  }

  #channel(session: Session): Promise<OpenChannel> {
    this.#opening ??= this.#open(session).catch((error: unknown) => {
      this.#opening = undefined;
      throw error;
    });
    return this.#opening;
  }

  async #open(session: Session): Promise<OpenChannel> {
    const open = await openChannel(session, name);
    open.ended.throwIfAborted();
    const onEnd = (): void => {
      this.#opening = undefined;
      // What cannot be mended shows itself to publishers that ask for an answer.
      this.#mend(open.ended.reason as MessagingError).catch(() => undefined);
    };
    open.ended.addEventListener("abort", onEnd, { once: true });
    return open;
  }
}

function drained(channel: Channel, ended: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      channel.removeListener("drain", end);
      ended.removeEventListener("abort", end);
      resolve();
    };
    channel.once("drain", end);
    ended.addEventListener("abort", end, { once: true });
  });
}
