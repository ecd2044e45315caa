/**
 * What the instances of an ordered group tell each other, with nothing but the server between them: who gives a sign consumes a
 * queue of that name, which nobody sends to, and how many give it the server counts. A sign ends with its connection, so
 * there is none of the dead. The queues go by themselves when nobody uses them.
 */
import { TransportError } from "../../src/spi.ts";
import { type OpenChannel, openChannel } from "./channel.ts";
import type { Session } from "./connection.ts";
import { channelError, closed } from "./errors.ts";

/**
 * `members`: this instance takes part. `short`: it has fewer partitions than any should. `drained`: of what came to the
 * group's own queue before its partitions were there, nothing is left.
 */
export type Sign = "members" | "short" | "drained";

const expiresMs = 60_000;

export class Signs {
  readonly #open: OpenChannel;
  /** The queue of the group. */
  readonly #queue: string;
  readonly #given = new Map<Sign, string>();

  /** Rejects with a `MessagingError`, as all its methods do. */
  static async open(session: Session, queue: string): Promise<Signs> {
    return new Signs(await openChannel(session, `the signs of queue \`${queue}\``), queue);
  }

  constructor(open: OpenChannel, queue: string) {
    this.#open = open;
    this.#queue = queue;
  }

  /** Aborted when the signs given here have ended. */
  get ended(): AbortSignal {
    return this.#open.ended;
  }

  /** How many others give it. */
  async count(sign: Sign): Promise<number> {
    return (await this.#declare(sign)) - (this.#given.has(sign) ? 1 : 0);
  }

  async give(sign: Sign): Promise<void> {
    if (this.#given.has(sign)) return;
    await this.#declare(sign);
    const onMessage = (message: unknown): void => {
      if (message === null)
        this.#open.abandon(new TransportError("ERR_BROKER", `${this.#name(sign)} is gone`));
    };
    const { consumerTag } = await this.#do(() =>
      this.#open.channel.consume(this.#name(sign), onMessage, { noAck: true }),
    );
    this.#given.set(sign, consumerTag);
  }

  async withdraw(sign: Sign): Promise<void> {
    const tag = this.#given.get(sign);
    if (tag === undefined) return;
    await this.#do(() => this.#open.channel.cancel(tag));
    this.#given.delete(sign);
  }

  /** Consumers of a queue of the group, and messages nobody has. */
  look(queue: string): Promise<{ readonly consumerCount: number; readonly messageCount: number }> {
    return this.#do(() => this.#open.channel.checkQueue(queue));
  }

  /** Withdraws all. */
  close(): void {
    this.#open.abandon(closed());
  }

  async #declare(sign: Sign): Promise<number> {
    const { consumerCount } = await this.#do(() =>
      this.#open.channel.assertQueue(this.#name(sign), {
        durable: true,
        arguments: { "x-queue-type": "classic", "x-expires": expiresMs },
      }),
    );
    return consumerCount;
  }

  #name(sign: Sign): string {
    return `${this.#queue}--${sign}`;
  }

  async #do<T>(act: () => Promise<T>): Promise<T> {
    try {
      return await act();
    } catch (error) {
      const { ended } = this.#open;
      throw channelError(ended.aborted ? ended.reason : error, `the signs of queue \`${this.#queue}\``);
    }
  }
}
