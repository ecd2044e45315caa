/**
 * Whether an idle consumer is one. Heartbeats show that the connection lives, not that its channel does, nor that the server
 * still knows the consumer: so while nothing comes the server is asked, on the very channel, whether there is something.
 */
import type { Channel } from "amqplib";
import type { Cancel, Runtime } from "../../src/spi.ts";

export interface ProbeContext {
  readonly runtime: Runtime;
  readonly channel: Channel;
  readonly queue: string;
  /** Whether messages should come if there are any. */
  readonly isOpen: () => boolean;
  /** None came though there were some (`"withheld"`), or the server does not answer on this channel. */
  readonly onDead: (how: "withheld" | "unanswered") => void;
}

const lookMs = 5_000;
/** Looks in a row without a proof that all is well: counted, not timed, because this process may stand still itself. */
const maxMisses = 3;

export class Probe {
  readonly #context: ProbeContext;
  #cancelLook: Cancel = () => undefined;
  #misses = 0;
  #received = false;
  #proven = true;
  #asking = false;

  constructor(context: ProbeContext) {
    this.#context = context;
    this.#scheduleLook();
  }

  get silentMs(): number {
    return this.#misses * lookMs;
  }

  /** A message came. */
  received(): void {
    this.#received = true;
    this.#misses = 0;
  }

  stop(): void {
    this.#cancelLook();
  }

  #scheduleLook(): void {
    this.#cancelLook = this.#context.runtime.setTimer(lookMs, () => this.#look(), { unref: true });
  }

  #look(): void {
    const fine = this.#received || this.#proven || !this.#context.isOpen();
    this.#misses = fine ? 0 : this.#misses + 1;
    if (this.#misses >= maxMisses) return this.#context.onDead(this.#asking ? "unanswered" : "withheld");
    if (!this.#received && !this.#asking) void this.#ask();
    this.#received = false;
    this.#proven = false;
    this.#scheduleLook();
  }

  async #ask(): Promise<void> {
    const { channel, queue } = this.#context;
    this.#asking = true;
    try {
      const { messageCount } = await channel.checkQueue(queue);
      if (messageCount === 0) this.#proven = true;
    } catch {
      // The channel has ended, and says so itself.
    }
    this.#asking = false;
  }
}
