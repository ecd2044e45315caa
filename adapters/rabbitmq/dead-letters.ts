/**
 * Reads the dead letters of a group without settling them. The server hides what is being read from others, and puts it
 * back when the cursor closes: in order, because each part is one consumer on one channel, and the server puts back what a
 * closing channel held in the order it was delivered. (`basic.get` would be simpler, but what it took comes back in any
 * order: seen on 3.10.)
 */
import type { Channel, ConsumeMessage } from "amqplib";
import {
  type AdapterContext,
  type Cancel,
  type DeadLetterCursor,
  type GroupSpec,
  type MessagingError,
  type StoredDeadLetter,
  TransportError,
  type WireMessage,
  header,
  headerCount,
  idOf,
  patchHeaders,
} from "../../src/spi.ts";
import { within } from "./bounded.ts";
import { type OpenChannel, onThrowAwayChannel, openChannel } from "./channel.ts";
import type { Session } from "./connection.ts";
import { channelError, closed } from "./errors.ts";
import { headerLimits, toWireMessage } from "./mapping.ts";
import { Unacked } from "./unacked.ts";

/** Letters one part holds. More parts are opened only when so many are read and not removed. */
const partSize = 256;
/** How long a letter that the server counts as there may take to come. */
const patienceMs = 1_000;

interface Part {
  readonly open: OpenChannel;
  readonly unacked: Unacked;
  /** Came, and not read yet. */
  readonly arrived: ConsumeMessage[];
  wake: () => void;
  consumerTag: string;
  /** How many letters it may still be sent. */
  room: number;
}

/** Where the copies of one letter are. */
type Copies = { readonly part: Part; readonly tag: number }[];

export class DeadLetterReader implements DeadLetterCursor {
  readonly #context: AdapterContext;
  readonly #session: Session;
  readonly #spec: GroupSpec;
  readonly #queue: string;
  readonly #parts: Part[] = [];
  /** By letter: the copies seen, or `"removed"`. */
  readonly #seen = new Map<string, Copies | "removed">();
  #left: number;
  #closed: Promise<void> | undefined;

  /** Opens a cursor over what is there now. */
  static async open(
    context: AdapterContext,
    session: Session,
    spec: GroupSpec,
    queue: string,
  ): Promise<DeadLetterReader> {
    const { messageCount } = await onThrowAwayChannel(session, `queue \`${queue}\``, (channel) =>
      channel.checkQueue(queue),
    );
    return new DeadLetterReader(context, session, spec, queue, messageCount);
  }

  constructor(context: AdapterContext, session: Session, spec: GroupSpec, queue: string, count: number) {
    this.#context = context;
    this.#session = session;
    this.#spec = spec;
    this.#queue = queue;
    this.#left = count;
  }

  async read(limit: number): Promise<readonly StoredDeadLetter[]> {
    const letters: StoredDeadLetter[] = [];
    while (letters.length < limit && this.#left > 0) {
      const next = await this.#next();
      if (next === undefined) break;
      this.#left -= 1;
      const letter = this.#admit(next);
      if (letter !== undefined) letters.push(letter);
    }
    return letters;
  }

  async remove(letters: readonly StoredDeadLetter[]): Promise<void> {
    const copies = letters.flatMap(({ token }) => {
      const seen = this.#seen.get(token as string);
      return seen === undefined || seen === "removed" ? [] : seen;
    });
    for (const [part, ofPart] of Map.groupBy(copies, ({ part }) => part)) {
      const tags = ofPart.map(({ tag }) => tag);
      await this.#acknowledge(part, tags);
    }
    for (const { token } of letters) this.#seen.set(token as string, "removed");
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** One part after the other, so that they are put back in that order. Resolves when others can see them again. */
  async #close(): Promise<void> {
    const { runtime } = this.#context;
    this.#left = 0;
    // Else the last part takes what the first gives back. If it cannot be told, it ends with its connection.
    await within(runtime, patienceMs, this.#closeToNew(this.#parts.at(-1)));
    for (const { open, unacked } of this.#parts) {
      const holding = unacked.open().length > 0;
      const consumers = holding ? await this.#consumers() : 0;
      open.abandon(closed());
      await within(runtime, patienceMs, open.gone);
      if (consumers > 0) await this.#putBack(consumers);
    }
  }

  /** The next letter. `undefined` when no more comes. */
  async #next(): Promise<{ readonly part: Part; readonly message: ConsumeMessage } | undefined> {
    const last = this.#parts.at(-1);
    const part =
      this.#parts.find(({ arrived }) => arrived.length > 0) ??
      (last === undefined || last.room <= 0 ? await this.#openPart() : last);
    if (part.arrived.length === 0 && !(await this.#arrival(part))) return undefined;
    part.open.ended.throwIfAborted();
    const message = part.arrived.shift();
    return message === undefined ? undefined : { part, message };
  }

  /** `undefined` for a copy of a letter that was read before. */
  #admit({
    part,
    message,
  }: {
    readonly part: Part;
    readonly message: ConsumeMessage;
  }): StoredDeadLetter | undefined {
    const tag = message.fields.deliveryTag;
    const letter = toLetter(message, this.#spec);
    const position = `${this.#queue}#${this.#seen.size + 1}`;
    // A letter that was redriven and failed again is another one.
    const redrives = headerCount(letter.headers, header.redrives);
    const key = `${idOf(this.#spec.topic.name, position, letter)} ${redrives}`;
    const seen = this.#seen.get(key);
    if (seen === "removed") {
      part.unacked.ack([tag]);
      return undefined;
    }
    if (seen !== undefined) {
      seen.push({ part, tag });
      return undefined;
    }
    this.#seen.set(key, [{ part, tag }]);
    return { message: letter, position, token: key };
  }

  /** Acknowledges, and waits until the server has taken note. */
  async #acknowledge(part: Part, tags: readonly number[]): Promise<void> {
    try {
      part.unacked.ack(tags);
      // The server works through a channel in order: when this is answered it has taken the acks.
      await part.open.channel.checkQueue(this.#queue);
      if (part === this.#parts.at(-1)) part.room += tags.length;
    } catch (error) {
      throw channelError(
        part.open.ended.aborted ? part.open.ended.reason : error,
        `queue \`${this.#queue}\``,
      );
    }
  }

  async #openPart(): Promise<Part> {
    await this.#closeToNew(this.#parts.at(-1));
    const open = await openChannel(this.#session, `queue \`${this.#queue}\``);
    const part: Part = {
      open,
      unacked: new Unacked(open.channel),
      arrived: [],
      wake: () => undefined,
      room: partSize,
      consumerTag: "",
    };
    open.ended.addEventListener("abort", () => part.wake(), { once: true });
    const onMessage = (message: ConsumeMessage | null): void => {
      if (message === null)
        return open.abandon(new TransportError("ERR_BROKER", `queue \`${this.#queue}\` was deleted`));
      part.room -= 1;
      part.unacked.add(message.fields.deliveryTag);
      part.arrived.push(message);
      part.wake();
    };
    try {
      await open.channel.prefetch(partSize);
      const { consumerTag } = await open.channel.consume(this.#queue, onMessage);
      part.consumerTag = consumerTag;
    } catch (error) {
      throw channelError(error, `queue \`${this.#queue}\``);
    }
    this.#parts.push(part);
    return part;
  }

  /** What is removed from a part that is done with must not make room there for letters nobody reads. */
  async #closeToNew(part: Part | undefined): Promise<void> {
    if (part === undefined) return;
    try {
      await part.open.channel.cancel(part.consumerTag);
      part.room = 0;
    } catch (error) {
      throw channelError(
        part.open.ended.aborted ? part.open.ended.reason : error,
        `queue \`${this.#queue}\``,
      );
    }
  }

  /** Waits for the next letter of a part. `false`: what was counted at the beginning is not there any more. */
  async #arrival(part: Part): Promise<boolean> {
    const { runtime } = this.#context;
    let cancelTimer: Cancel = () => undefined;
    await new Promise<void>((resolve) => {
      part.wake = resolve;
      cancelTimer = runtime.setTimer(patienceMs, resolve);
      if (part.arrived.length > 0 || part.open.ended.aborted) resolve();
    });
    cancelTimer();
    part.wake = () => undefined;
    return part.arrived.length > 0 || part.open.ended.aborted;
  }

  /** Waits until the queue has let go of a closed consumer, and so put back what it held. */
  async #putBack(consumersBefore: number): Promise<void> {
    const { runtime } = this.#context;
    const deadline = runtime.monotonic() + patienceMs;
    while (!this.#session.ended.aborted && runtime.monotonic() < deadline) {
      if ((await this.#consumers()) < consumersBefore) return;
      await runtime.sleep(5);
    }
  }

  async #consumers(): Promise<number> {
    return onThrowAwayChannel(this.#session, `queue \`${this.#queue}\``, (channel: Channel) =>
      channel.checkQueue(this.#queue),
    ).then(
      ({ consumerCount }) => consumerCount,
      (_gone: MessagingError) => 0,
    );
  }
}

/** A letter; one that the server moved here by itself is told what it cannot say. */
function toLetter({ properties, content }: ConsumeMessage, { group }: GroupSpec): WireMessage {
  const message = toWireMessage(properties, content, headerLimits.copy);
  const death = properties.headers?.["x-death"]?.[0];
  if (message.headers[header.reason] !== undefined || death === undefined) return message;
  const reason: string = death.reason;
  const at: unknown = (death.time as { readonly value?: unknown } | undefined)?.value;
  return {
    ...message,
    headers: patchHeaders(message.headers, {
      [header.reason]: reason === "delivery_limit" ? "crash-loop" : reason,
      [header.group]: group,
      [header.errorName]: "DeliveryLimit",
      [header.errorMessage]: `RabbitMQ moved it here by itself: ${reason}`,
      [header.attempts]: String(headerCount(message.headers, header.failures) + 1),
      [header.deadLetteredAt]: typeof at === "number" ? String(at * 1_000) : undefined,
    }),
  };
}
