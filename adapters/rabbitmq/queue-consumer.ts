/** Consumes the queue of a group for as long as its subscription runs: one stream after the other. */
import {
  type AdapterContext,
  type MessagingError,
  type SubscribeSpec,
  jittered,
  retryLoop,
} from "../../src/spi.ts";
import type { Link, Session } from "./connection.ts";
import type { Sharing } from "./sharing.ts";
import type { Stream } from "./stream.ts";
import type { Declarations } from "./topology.ts";
import type { Turn } from "./turn.ts";

/** What a subscription offers those that consume for it. */
export interface ConsumerHost {
  readonly context: AdapterContext;
  readonly link: Link;
  readonly declarations: Declarations;
  readonly spec: SubscribeSpec;
  /** Aborted when the subscription closes. */
  readonly closing: AbortSignal;
  /** Opens a stream and consumes, unless paused. `onEnd` is called once. Rejects when it does not come about. */
  openStream(
    session: Session,
    queue: string,
    turn: Turn | undefined,
    onEnd: (stream: Stream) => void,
  ): Promise<Stream>;
}

/** A stream that ended sooner than this counts as a failed attempt. */
const stableMs = 5_000;

export class QueueConsumer {
  readonly #host: ConsumerHost;
  readonly #queue: string;
  /** Of an ordered subscription. */
  readonly #sharing: Sharing | undefined;
  #error: MessagingError | undefined;
  /** Why the last stream ended, when it was not for want of a connection. */
  #suspect: MessagingError | undefined;

  constructor(host: ConsumerHost, sharing: Sharing | undefined) {
    this.#host = host;
    this.#queue = host.declarations.names(host.spec).queue;
    this.#sharing = sharing;
  }

  /** Why it does not consume. */
  get error(): MessagingError | undefined {
    return this.#error;
  }

  /** One stream after the other, with growing waits while they fail. Never gives up, and resolves when the subscription closes. */
  async run(first: Stream | undefined): Promise<void> {
    const { context, closing } = this.#host;
    const { runtime } = context;
    const backoff = jittered(runtime, "subscribe", 100, 5_000);
    const sleep = (ms: number): Promise<void> => runtime.sleep(ms, closing);
    let next = first;
    let flaps = 0;
    const open = (): Promise<Stream> =>
      retryLoop(
        sleep,
        () => this.open(),
        (error, attempt) => {
          this.#error = error as MessagingError;
          return backoff(attempt + flaps);
        },
      );
    try {
      while (!closing.aborted) {
        const stream = next ?? (await open());
        next = undefined;
        const since = runtime.monotonic();
        await stream.over;
        flaps = runtime.monotonic() - since < stableMs ? flaps + 1 : 0;
        if (flaps > 1) await sleep(backoff(flaps));
      }
    } catch {
      // Only closing ends the loop.
    }
  }

  async open(): Promise<Stream> {
    const { link, declarations, spec, closing } = this.#host;
    const session = await link.ready(closing);
    if (this.#suspect !== undefined) {
      await lookForQueue(this.#host, session, this.#queue, this.#suspect);
      this.#suspect = undefined;
    }
    await declarations.ensureGroup(session, spec);
    closing.throwIfAborted();
    // To stand by is as good as to consume.
    if (this.#sharing !== undefined) this.#error = undefined;
    const place = await this.#sharing?.takeGroupQueue(session);
    const stream = await this.#host.openStream(session, this.#queue, place?.turn, (ended) =>
      this.#onStreamEnd(ended),
    );
    place?.begin(stream);
    this.#error = undefined;
    return stream;
  }

  #onStreamEnd({ error }: Stream): void {
    if (this.#host.closing.aborted) return;
    this.#error = error;
    this.#suspect = error?.code === "ERR_CONNECTION_LOST" ? undefined : error;
  }
}

/** Says why consuming a queue was interrupted, and has it made again when it was deleted. */
export async function lookForQueue(
  host: ConsumerHost,
  session: Session,
  queue: string,
  why: MessagingError,
): Promise<void> {
  if (await isThere(host, session, queue)) {
    const message = `RabbitMQ ended a consumer, which starts anew; what it held comes again. ${why.message}`;
    host.context.emit({ type: "warning", code: `CONSUMER_ENDED ${queue}`, message });
  } else {
    host.declarations.forgetGroup(host.spec);
  }
}

/**
 * A server that deletes a queue cancels its consumers first, and for a moment still has the name of what is gone: whoever
 * consumes then loses the whole connection (541, seen on 4.3).
 */
async function isThere(host: ConsumerHost, session: Session, queue: string): Promise<boolean> {
  for (let look = 0; look < 5; look++) {
    await host.context.runtime.sleep(100, host.closing);
    if (!(await host.declarations.exists(session, queue))) return false;
  }
  return true;
}
