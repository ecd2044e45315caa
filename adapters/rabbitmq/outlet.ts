/**
 * One way out: a channel with confirms, made anew when it ends, and the messages on it. Every message ends in exactly one
 * outcome. What has not been written is surely not sent; what was written and not answered is unknown.
 */
import type { ConfirmChannel, Message, Options } from "amqplib";
import { type Cancel, MessagingError, type Runtime } from "../../src/spi.ts";
import { type OpenChannel, openConfirmChannel } from "./channel.ts";
import type { Link, Session } from "./connection.ts";
import { brokerFull, connectionLost, unconfirmed, unwritable } from "./errors.ts";
import { write } from "./write.ts";

/** One message for one exchange. */
export interface Parcel {
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: Buffer;
  readonly properties: Options.Publish;
}

/** `returned`: no queue took it. */
export type Outcome =
  | { readonly status: "accepted" }
  | { readonly status: "returned" }
  | { readonly status: "rejected"; readonly error: MessagingError }
  | { readonly status: "unknown"; readonly error: MessagingError };

export interface OutletContext {
  readonly runtime: Runtime;
  readonly link: Link;
  /** What errors call it. */
  readonly name: string;
  readonly confirmWindow: number;
  readonly confirmTimeoutMs: number;
  /** The server closed the channel; resolves when what it missed is there again, as far as that can be. */
  mend(error: MessagingError): Promise<void>;
  /** A confirmation did not come in time. */
  overdue(error: MessagingError): void;
}

interface Entry {
  readonly parcel: Parcel;
  readonly done: (outcome: Outcome) => void;
  /** When it was queued, then when it was written; monotonic. */
  since: number;
  returned: boolean;
  ended: boolean;
}

/** One channel with what is unconfirmed on it, in the order it was written. */
interface Flow {
  readonly open: OpenChannel<ConfirmChannel>;
  readonly entries: Set<Entry>;
  /** amqplib's buffer is full. */
  full: boolean;
}

/** Unconfirmed bytes beyond which no more is written: the window alone would let a thousand large messages into memory. */
const windowBytes = 32 * 1_048_576;
/** What could not even be written for so long is given back to the core, which knows how long its caller waits. */
const unwrittenMs = 3_000;
const watchMs = 500;

export class Outlet {
  readonly #context: OutletContext;
  /** What waits to be written, from `#head` on. */
  #queue: Entry[] = [];
  #head = 0;
  #flow: Flow | undefined;
  /** Channels that take nothing new, with what is still unconfirmed on them. */
  readonly #retired = new Set<Flow>();
  #opening = false;
  #unconfirmed = 0;
  #unconfirmedBytes = 0;
  #cancelWatch: Cancel | undefined;

  constructor(context: OutletContext) {
    this.#context = context;
  }

  /** Queues one message; `pump` sends. `done` is called exactly once. */
  push(parcel: Parcel, now: number, done: (outcome: Outcome) => void): void {
    this.#queue.push({ parcel, done, since: now, returned: false, ended: false });
  }

  /** Writes as much as may be written now. */
  pump(): void {
    if (this.#head === this.#queue.length) return;
    const { link, runtime } = this.#context;
    const { session } = link;
    if (session === undefined) return this.#refuse(link.error ?? connectionLost(undefined, "the connection"));
    this.#cancelWatch ??= runtime.setTimer(watchMs, this.#watch, { unref: true });
    if (session.blocked !== undefined) return;
    const flow = this.#flow;
    if (flow === undefined) return void this.#open(session);
    const now = runtime.monotonic();
    let lives = true;
    while (lives && this.#head < this.#queue.length && this.#mayWrite(flow)) {
      const entry = this.#queue[this.#head] as Entry;
      this.#head += 1;
      lives = this.#write(flow, entry, now);
    }
    if (this.#head === this.#queue.length || this.#head > 1_024) this.#takeQueue((rest) => rest);
  }

  /** Replaces what waits. */
  #takeQueue(keep: (waiting: Entry[]) => Entry[]): void {
    this.#queue = keep(this.#queue.slice(this.#head));
    this.#head = 0;
  }

  #mayWrite({ full }: Flow): boolean {
    const { confirmWindow } = this.#context;
    return !full && this.#unconfirmed < confirmWindow && this.#unconfirmedBytes < windowBytes;
  }

  /** `false`: the channel has ended under us. */
  #write(flow: Flow, entry: Entry, now: number): boolean {
    const { body, properties } = entry.parcel;
    try {
      const goOn = write(flow.open.channel, entry.parcel, body, properties, (error: unknown) =>
        this.#confirmed(flow, entry, error),
      );
      flow.full = !goOn;
    } catch (error) {
      const lost = flow.open.ended.aborted || (error as Error).name === "IllegalOperationError";
      if (lost) this.#end(entry, { status: "rejected", error: connectionLost(error, this.#context.name) });
      else this.#end(entry, { status: "rejected", error: cannotWrite(entry, error) });
      return !lost;
    }
    entry.since = now;
    flow.entries.add(entry);
    this.#unconfirmed += 1;
    this.#unconfirmedBytes += body.byteLength;
    return true;
  }

  #confirmed(flow: Flow, entry: Entry, error: unknown): void {
    this.#leave(flow, entry);
    if (error === null || error === undefined) {
      this.#end(entry, entry.returned ? { status: "returned" } : { status: "accepted" });
    } else if ((error as Error).message === "message nacked") {
      this.#end(entry, { status: "rejected", error: brokerFull("the queue refused the message") });
    } else {
      // The channel is closing: what waits is for the next one.
      return this.#end(entry, { status: "unknown", error: this.#lostError(flow, error) });
    }
    this.pump();
  }

  #lostError(flow: Flow, error: unknown): MessagingError {
    const { ended } = flow.open;
    return connectionLost(ended.aborted ? ended.reason : error, this.#context.name);
  }

  #leave(flow: Flow, entry: Entry): void {
    if (!flow.entries.delete(entry)) return;
    this.#unconfirmed -= 1;
    this.#unconfirmedBytes -= entry.parcel.body.byteLength;
    if (flow.entries.size === 0 && this.#retired.delete(flow)) flow.open.abandon(retiredError);
  }

  #end(entry: Entry, outcome: Outcome): void {
    if (entry.ended) return;
    entry.ended = true;
    entry.done(outcome);
  }

  /** Ends all that was not written. */
  #refuse(error: MessagingError): void {
    this.#takeQueue((waiting) => {
      for (const entry of waiting) this.#end(entry, { status: "rejected", error });
      return [];
    });
  }

  async #open(session: Session): Promise<void> {
    if (this.#opening) return;
    this.#opening = true;
    try {
      const open = await openConfirmChannel(session, this.#context.name);
      if (!open.ended.aborted) this.#adopt(open);
    } catch (error) {
      this.#refuse(connectionLost(error, this.#context.name));
    } finally {
      this.#opening = false;
    }
    this.pump();
  }

  #adopt(open: OpenChannel<ConfirmChannel>): void {
    const flow: Flow = { open, entries: new Set(), full: false };
    open.channel.on("return", (message) => onReturn(flow, message));
    open.channel.on("drain", () => {
      flow.full = false;
      this.pump();
    });
    open.ended.addEventListener("abort", () => void this.#onFlowEnd(flow), { once: true });
    this.#flow = flow;
  }

  async #onFlowEnd(flow: Flow): Promise<void> {
    const error = flow.open.ended.reason as MessagingError;
    for (const entry of flow.entries) this.#confirmed(flow, entry, error);
    if (this.#flow !== flow) return;
    // Until what was missing is mended there is no use in another channel.
    this.#opening = true;
    this.#flow = undefined;
    // What cannot be mended now fails the next publish, which says so.
    await this.#context.mend(error).catch(() => undefined);
    this.#opening = false;
    this.pump();
  }

  /** Ends what waits too long, and looks again while anything waits. */
  readonly #watch = (): void => {
    this.#cancelWatch = undefined;
    const { runtime, link, confirmTimeoutMs } = this.#context;
    const now = runtime.monotonic();
    const blocked = link.session?.blocked;
    const error = brokerFull(blocked ?? "it does not keep up with what is sent");
    this.#takeQueue((waiting) =>
      waiting.filter((entry) => {
        const late = now - entry.since > unwrittenMs;
        if (late) this.#end(entry, { status: "rejected", error });
        return !late;
      }),
    );
    // Under an alarm nothing is confirmed; what was written then is answered when it is over.
    if (blocked === undefined) this.#expire(now - confirmTimeoutMs);
    this.pump();
    if (this.#head < this.#queue.length || this.#unconfirmed > 0)
      this.#cancelWatch ??= runtime.setTimer(watchMs, this.#watch, { unref: true });
  };

  /** A queue without a leader never answers: the channel lives and says nothing. */
  #expire(before: number): void {
    for (const flow of [...this.#retired, ...(this.#flow === undefined ? [] : [this.#flow])]) {
      for (const entry of flow.entries) {
        if (entry.since > before) break;
        const { messageId = "" } = entry.parcel.properties;
        const error = unconfirmed(messageId, destinationOf(entry.parcel), this.#context.confirmTimeoutMs);
        this.#context.overdue(error);
        // amqplib keeps everything after an unanswered message in memory: this channel takes nothing new.
        if (this.#flow === flow) {
          this.#flow = undefined;
          this.#retired.add(flow);
        }
        this.#leave(flow, entry);
        this.#end(entry, { status: "unknown", error });
      }
    }
  }

  /** Ends everything; what was written and not confirmed is unknown. */
  close(error: MessagingError): void {
    this.#cancelWatch?.();
    this.#refuse(error);
    for (const flow of [...this.#retired, ...(this.#flow === undefined ? [] : [this.#flow])]) {
      for (const entry of flow.entries) this.#end(entry, { status: "unknown", error });
    }
  }
}

const retiredError = brokerFull("a message on this channel was not confirmed");

/** The server returns a message right before it confirms it. Ids may repeat; the first that fits is the one. */
function onReturn(flow: Flow, { properties, fields }: Message): void {
  const messageId: unknown = properties.messageId;
  for (const entry of flow.entries) {
    const { parcel } = entry;
    const fits =
      !entry.returned &&
      parcel.exchange === fields.exchange &&
      parcel.routingKey === fields.routingKey &&
      parcel.properties.messageId === messageId;
    if (!fits) continue;
    entry.returned = true;
    return;
  }
}

function destinationOf({ exchange, routingKey }: Parcel): string {
  return exchange === "" ? routingKey : exchange;
}

function cannotWrite({ parcel }: Entry, error: unknown): MessagingError {
  const { messageId = "" } = parcel.properties;
  return unwritable(messageId, `the message cannot be written in AMQP: ${String(error)}`, error);
}
