/**
 * Delays of any length, held by the server: a ladder of queues whose time-outs are powers of two. A copy enters at the highest
 * step its delay needs; each queue, when its time is up, hands on to the step below, whose exchange takes the copy into
 * its queue if the copy's delay has that bit and otherwise passes it further down. At the end the exchange `postrider--delay`
 * brings it back to the one queue that the routing key names.
 *
 * The same idea as NServiceBus's, with two changes. The bits are headers, not words of the routing key: the
 * name of a queue may need all the 255 bytes there are. And a step that is not needed is passed by way of the alternate
 * exchange, so that only bits that are set travel.
 *
 * Why not one time-out per message: a queue hands on in order, so one long delay would hold up all short ones behind it.
 */
import type { Channel } from "amqplib";
import type { AdapterContext } from "../../src/spi.ts";
import { onThrowAwayChannel } from "./channel.ts";
import type { Session } from "./connection.ts";
import { type Declarations, noDeliveryLimit, quorumQueue, surely } from "./topology.ts";

/** The lowest step, and so what delays are rounded up to. */
const unitMs = 250;
const steps = 24;

/** Longest delay: 45 days. All steps together would be 48. */
export const maxDelayMs: number = 45 * 86_400_000;

/** Headers that carry the bits of a delay begin with this. */
export const delayHeaderPrefix = "pr-delay-";

/** How a copy enters the ladder. */
export interface DelayRoute {
  readonly exchange: string;
  readonly headers: Readonly<Record<string, number>>;
}

export class DelayLadder {
  readonly #context: AdapterContext;
  readonly #declarations: Declarations;

  constructor(context: AdapterContext, declarations: Declarations) {
    this.#context = context;
    this.#declarations = declarations;
  }

  /**
   * Makes the steps that delays up to `delayMs` need, before one is under way: what is in a quorum queue survives a crash of
   * its server only from about a second after the queue was made.
   */
  async prepare(session: Session, delayMs: number): Promise<void> {
    if (delayMs > 0) await this.#ensure(session, Math.floor(Math.log2(unitsOf(delayMs))));
  }

  /** Where to publish what should come back after `delayMs`, above 0. Makes the steps this needs. */
  async route(session: Session, delayMs: number): Promise<DelayRoute> {
    const units = unitsOf(delayMs);
    const headers: Record<string, number> = {};
    let top = 0;
    for (let step = 0; step < steps; step++) {
      if ((units & (1 << step)) === 0) continue;
      headers[bitHeader(step)] = 1;
      top = step;
    }
    await this.#ensure(session, top);
    return { exchange: this.#name(top), headers };
  }

  /** From the lowest step up, so that nothing ever hands on to what is not there. */
  #ensure(session: Session, top: number): Promise<void> {
    return this.#declarations.once(session, `delays up to step ${top}`, async () => {
      if (top > 0) await this.#ensure(session, top - 1);
      await onThrowAwayChannel(session, `delay queue \`${this.#name(top)}\``, (channel) =>
        this.#declareStep(channel, top),
      );
    });
  }

  async #declareStep(channel: Channel, step: number): Promise<void> {
    const name = this.#name(step);
    const below = step === 0 ? this.#declarations.returns : this.#name(step - 1);
    if (step === 0) await channel.assertExchange(below, "direct", { durable: true });
    await channel.assertExchange(name, "headers", { durable: true, alternateExchange: below });
    await channel.assertQueue(
      name,
      quorumQueue({
        ...surely,
        "x-message-ttl": unitMs * 2 ** step,
        "x-dead-letter-exchange": below,
        // Nobody consumes here; but a person who looks into the queue hands over and takes back.
        "x-delivery-limit": noDeliveryLimit,
      }),
    );
    await channel.bindQueue(name, name, "", { "x-match": "all", [bitHeader(step)]: 1 });
  }

  #name(step: number): string {
    return this.#context.names.delay(unitMs * 2 ** step);
  }
}

function unitsOf(delayMs: number): number {
  return Math.max(1, Math.ceil(Math.min(delayMs, maxDelayMs) / unitMs));
}

function bitHeader(step: number): string {
  return `${delayHeaderPrefix}${step}`;
}
