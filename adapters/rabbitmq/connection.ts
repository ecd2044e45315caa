/** One supervised connection: mended by itself, with growing waits, over the list of nodes, until it is closed. */
import type { ChannelModel } from "amqplib";
import { type Cancel, MessagingError, TransportError, jittered, retryLoop } from "../../src/spi.ts";
import { within } from "./bounded.ts";
import { type DialContext, type Dialled, dial } from "./dial.ts";
import { closed, connectionLost } from "./errors.ts";
import type { Node } from "./options.ts";

/** One connection from its opening to its end. */
export interface Session {
  readonly model: ChannelModel;
  /** `host:port`. */
  readonly address: string;
  /** Aborted with a `MessagingError` when the connection has ended. */
  readonly ended: AbortSignal;
  /** Ends it for this reason, without asking the server; the link makes another one. */
  abandon(why: MessagingError): void;
  /** Why the server reads nothing that is published here (a memory or disk alarm), while it does not. */
  readonly blocked: string | undefined;
}

export interface LinkListener {
  opened(session: Session): void;
  lost(error: MessagingError): void;
  failed(attempt: number, delayMs: number, error: MessagingError): void;
  blockedChanged(session: Session): void;
}

export interface LinkContext extends DialContext {
  readonly listener: LinkListener;
}

/** A session that ended sooner than this counts as a failed attempt, so that a flapping server is not hammered. */
const stableMs = 5_000;
/** How long a closing handshake may take before the socket is ended without it. */
const goodbyeMs = 1_000;

interface OpenSession extends Session {
  readonly openedAt: number;
  readonly destroy: () => void;
  readonly over: Promise<void>;
}

export class Link {
  readonly #context: LinkContext;
  readonly #closing = new AbortController();
  readonly #backoff: (attempt: number) => number;
  readonly #waiting = new Set<() => void>();
  #session: OpenSession | undefined;
  #error: MessagingError | undefined;
  #nextNode = 0;
  #flaps = 0;
  #started = false;

  constructor(context: LinkContext) {
    this.#context = context;
    this.#backoff = jittered(context.runtime, "reconnect", 100, 5_000);
  }

  /** The open connection, if there is one now. */
  get session(): Session | undefined {
    return this.#session;
  }

  /** Why there is none, or was none until lately. */
  get error(): MessagingError | undefined {
    return this.#session === undefined ? this.#error : undefined;
  }

  /** Connects for the first time: one try per node. From then on the link mends itself. */
  async connect(): Promise<void> {
    if (this.#started) return;
    await this.#dialEach();
    this.#started = true;
  }

  /** The open session, or the next one; rejects when there is none within `connectTimeout`, or `signal` aborts. */
  async ready(signal?: AbortSignal): Promise<Session> {
    const { runtime, settings } = this.#context;
    const deadline = runtime.monotonic() + settings.connectTimeoutMs;
    while (this.#session === undefined) {
      signal?.throwIfAborted();
      if (this.#closing.signal.aborted) throw closed();
      const left = deadline - runtime.monotonic();
      if (left <= 0) throw this.#error ?? connectionLost(undefined, "the connection to RabbitMQ");
      await this.#change(left, signal);
    }
    return this.#session;
  }

  /** Says good-bye and ends the connection; bounded, also when the server is gone or frozen. */
  async close(): Promise<void> {
    this.#closing.abort(closed());
    this.#wake();
    const session = this.#session;
    if (session === undefined) return;
    // A good-bye that fails is one: the connection has just ended by itself. One that is never answered is not waited for.
    session.model.close().catch(() => undefined);
    await within(this.#context.runtime, goodbyeMs, session.over);
    session.destroy();
  }

  /** Tries each node once, beginning with the one after the last tried. */
  async #dialEach(): Promise<void> {
    const { nodes } = this.#context.settings;
    for (let tried = 1; ; tried++) {
      try {
        return await this.#dialNext();
      } catch (error) {
        if (tried >= nodes.length || this.#closing.signal.aborted) throw error;
      }
    }
  }

  async #dialNext(): Promise<void> {
    const { nodes } = this.#context.settings;
    const node = nodes[this.#nextNode % nodes.length] as Node;
    this.#nextNode += 1;
    try {
      this.#adopt(await dial(this.#context, node, this.#closing.signal), node);
    } catch (error) {
      this.#error = MessagingError.is(error) ? error : new TransportError("ERR_CONNECT", String(error));
      throw error;
    }
  }

  #adopt({ model, destroy }: Dialled, { address }: Node): void {
    const { runtime, listener } = this.#context;
    const ended = new AbortController();
    const { promise: over, resolve } = Promise.withResolvers<void>();
    let blocked: string | undefined;
    let cause: unknown;
    const session: OpenSession = {
      model,
      address,
      ended: ended.signal,
      abandon(why) {
        cause = why;
        destroy();
      },
      get blocked() {
        return blocked;
      },
      openedAt: runtime.monotonic(),
      destroy,
      over,
    };
    model.on("error", (error) => (cause ??= error));
    model.on("handler-error", () => destroy());
    model.on("blocked", (reason) => {
      blocked = reason;
      listener.blockedChanged(session);
    });
    model.on("unblocked", () => {
      blocked = undefined;
      listener.blockedChanged(session);
    });
    model.once("close", (error) => {
      const lost = connectionLost(cause ?? error, `the connection to RabbitMQ at ${address}`);
      // A socket whose other side is gone would stay half-open; what amqplib still has to say gets a moment.
      runtime.setTimer(goodbyeMs, destroy, { unref: true });
      ended.abort(this.#closing.signal.aborted ? closed() : lost);
      resolve();
      this.#onEnd(session, lost);
    });
    this.#session = session;
    this.#wake();
    listener.opened(session);
  }

  #onEnd(session: OpenSession, error: MessagingError): void {
    if (this.#session !== session) return;
    this.#session = undefined;
    if (this.#closing.signal.aborted) return;
    this.#error = error;
    this.#flaps = this.#context.runtime.monotonic() - session.openedAt < stableMs ? this.#flaps + 1 : 0;
    this.#context.listener.lost(error);
    void this.#reconnect();
  }

  /** Never gives up: an error that was final at the start, such as a refused login, may be a server that is just starting. */
  async #reconnect(): Promise<void> {
    const { runtime, listener } = this.#context;
    const sleep = (ms: number): Promise<void> => runtime.sleep(ms, this.#closing.signal);
    try {
      await sleep(this.#backoff(this.#flaps + 1));
      await retryLoop(
        sleep,
        () => this.#dialNext(),
        (error, attempt) => {
          if (this.#closing.signal.aborted) return undefined;
          const delayMs = this.#backoff(attempt + this.#flaps);
          listener.failed(attempt, delayMs, error as MessagingError);
          return delayMs;
        },
      );
    } catch {
      // Only closing ends the loop, and there is nobody left to tell.
    }
  }

  #change(ms: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      let cancelTimer: Cancel = () => undefined;
      const wake = (): void => {
        cancelTimer();
        signal?.removeEventListener("abort", wake);
        this.#waiting.delete(wake);
        resolve();
      };
      cancelTimer = this.#context.runtime.setTimer(ms, wake);
      signal?.addEventListener("abort", wake, { once: true });
      this.#waiting.add(wake);
    });
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }
}
