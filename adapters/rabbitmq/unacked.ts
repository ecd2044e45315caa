/**
 * What was delivered on one channel and is not settled yet, by delivery tag. The server takes one acknowledgement for
 * everything up to a tag, which is several times cheaper than one each; it may be used only as far as nothing before it is
 * open.
 */
import type { Channel } from "amqplib";

export class Unacked {
  readonly #channel: Channel;
  /** Ascending: tags of one channel only ever grow. */
  readonly #open = new Set<number>();
  #last = 0;

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  add(tag: number): void {
    this.#open.add(tag);
    this.#last = tag;
  }

  /** Leaves out what is not open. Throws amqplib's `IllegalOperationError` when the channel has ended. */
  ack(tags: readonly number[]): void {
    const acked = this.#take(tags);
    const [firstOpen = Infinity] = this.#open;
    const together = acked.filter((tag) => tag < firstOpen);
    const upTo = together.at(-1);
    if (upTo !== undefined) this.#channel.ack(messageOf(upTo), together.length > 1);
    for (const tag of acked.slice(together.length)) this.#channel.ack(messageOf(tag), false);
  }

  /**
   * Gives back, to be delivered again. One by one in the order of the tags: one `nack` for many gives them back in any order
   * (RabbitMQ 3.10, more than 32 at once).
   */
  giveBack(tags: readonly number[]): void {
    for (const tag of this.#take(tags)) this.#channel.nack(messageOf(tag), false, true);
  }

  get count(): number {
    return this.#open.size;
  }

  /** Whether everything up to this tag is settled. */
  doneUpTo(tag: number): boolean {
    const [firstOpen = Infinity] = this.#open;
    return this.#last >= tag && firstOpen > tag;
  }

  /** All that is open. */
  open(): readonly number[] {
    return [...this.#open];
  }

  /** Those that are open, ascending; they no longer are. */
  #take(tags: readonly number[]): readonly number[] {
    return tags.filter((tag) => this.#open.delete(tag)).toSorted((a, b) => a - b);
  }
}

/** Settling needs nothing of a message but its tag. */
function messageOf(deliveryTag: number): Parameters<Channel["ack"]>[0] {
  return { fields: { deliveryTag } } as Parameters<Channel["ack"]>[0];
}
