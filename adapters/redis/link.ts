/**
 * A connection that is always there or on its way back: the one mechanism that reconnects. Requests made while it is down
 * fail at once, and nothing is ever sent twice.
 */
import type { Redis } from "ioredis";
import {
  type Cancel,
  LifecycleError,
  type MessagingError,
  type Runtime,
  TransportError,
  jittered,
  retryLoop,
} from "../../src/spi.ts";
import { type OpenClient, openClient } from "./client.ts";
import { connectError, isReply, requestError, textOf } from "./errors.ts";
import type { CheckedOptions } from "./options.ts";

export interface LinkContext {
  readonly options: CheckedOptions;
  readonly runtime: Runtime;
  /** Shown by `CLIENT LIST`. */
  readonly name: string;
  /** Called with every new connection before it is used; a rejection makes it count as not made. */
  readonly prepare?: ((redis: Redis) => Promise<void>) | undefined;
  readonly onUp?: (() => void) | undefined;
  readonly onDown?: ((error: MessagingError) => void) | undefined;
  readonly onRetry?: ((attempt: number, delayMs: number, error: MessagingError) => void) | undefined;
}

/** A silent connection is asked whether it is still there. */
const heartbeatMs = 10_000;
/** One that was lost sooner than this is not made again at once. */
const shortLifeMs = 1_000;

export class Link {
  readonly #context: LinkContext;
  readonly #closing = new AbortController();
  readonly #pending = new Set<(error: unknown) => void>();
  readonly #waiting = new Set<() => void>();
  #client: OpenClient | undefined;
  #generation = 0;
  #error: MessagingError | undefined;
  #failed = false;
  #answered = false;
  #upAt = 0;
  /** Connections in a row that did not last. */
  #shortLives = 0;
  #cancelHeartbeat: Cancel = () => undefined;

  constructor(context: LinkContext) {
    this.#context = context;
  }

  get up(): boolean {
    return this.#client !== undefined;
  }

  /** Rises with each connection. */
  get generation(): number {
    return this.#generation;
  }

  /** Why it is down. */
  get error(): MessagingError | undefined {
    return this.#client === undefined ? this.#error : undefined;
  }

  /** Whether it will not come back: closed, or refused for good. */
  get ended(): boolean {
    return this.#failed || this.#closing.signal.aborted;
  }

  /** Makes the first connection; rejects when that cannot be done. From then on it mends itself. */
  async connect(): Promise<void> {
    if (this.#client === undefined) await this.#open();
  }

  /**
   * Sends one request. Rejects with `RequestError`; without an answer in time, the connection counts as dead and is
   * replaced.
   */
  request<T>(
    what: string,
    send: (redis: Redis) => Promise<T>,
    timeoutMs: number = this.#commandTimeoutMs,
  ): Promise<T> {
    const client = this.#client;
    if (client === undefined) return Promise.reject(requestError(what, this.#whyDown(), false));
    return new Promise<T>((resolve, reject) => {
      const end = (): void => {
        cancelTimer();
        this.#pending.delete(fail);
      };
      const fail = (cause: unknown): void => {
        end();
        reject(requestError(what, cause, !isUnsent(cause)));
      };
      const { runtime } = this.#context;
      const onTimeout = (): void => {
        if (!this.#pending.has(fail)) return;
        const error = new Error(`no answer within ${timeoutMs} ms`);
        fail(error);
        this.#lose(client, error);
      };
      // In a process that was held up, timers come before what has long arrived.
      const cancelTimer = runtime.setTimer(timeoutMs, () => runtime.defer(onTimeout));
      this.#pending.add(fail);
      send(client.redis).then(
        (value) => {
          this.#answered = true;
          end();
          resolve(value);
        },
        (cause: unknown) => {
          fail(cause);
          // After a failover this is another server's duty: the address may lead there by now.
          if (requestError(what, cause).reply === "READONLY") this.#lose(client, cause);
        },
      );
    });
  }

  /** Resolves when it is up, or ended. */
  async settled(signal: AbortSignal): Promise<void> {
    if (this.up || this.ended || signal.aborted) return;
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }

  /** Ends the connection for good; what waits for an answer fails. */
  close(): void {
    if (this.#closing.signal.aborted) return;
    const error = new LifecycleError("ERR_CLOSED", "the Redis connection was closed");
    this.#closing.abort(error);
    this.#cancelHeartbeat();
    this.#drop(error);
    this.#wake();
  }

  get #commandTimeoutMs(): number {
    return this.#context.options.commandTimeoutMs;
  }

  #whyDown(): Error {
    if (this.#closing.signal.aborted) return this.#closing.signal.reason as Error;
    return this.#error ?? new Error("not connected");
  }

  async #open(): Promise<void> {
    const { options, runtime, name, prepare } = this.#context;
    const signal = this.#closing.signal;
    signal.throwIfAborted();
    const client = await openClient({ options, runtime, name, signal });
    try {
      await prepare?.(client.redis);
      signal.throwIfAborted();
    } catch (cause) {
      client.redis.disconnect();
      throw connectError(options.target, cause);
    }
    if (client.redis.status !== "ready") {
      throw connectError(options.target, client.lastError() ?? new Error("the connection was closed"));
    }
    client.redis.once("end", () =>
      this.#lose(client, client.lastError() ?? new Error("the server closed the connection")),
    );
    this.#client = client;
    this.#generation += 1;
    this.#upAt = runtime.monotonic();
    this.#error = undefined;
    this.#scheduleHeartbeat();
    this.#context.onUp?.();
    this.#wake();
  }

  /** The connection is of no use any more: a new one is made. */
  #lose(client: OpenClient, cause: unknown): void {
    if (this.#client !== client || this.#closing.signal.aborted) return;
    const error = connectionLost(this.#context.options.target, cause);
    this.#error = error;
    this.#cancelHeartbeat();
    const livedMs = this.#context.runtime.monotonic() - this.#upAt;
    this.#shortLives = livedMs < shortLifeMs ? this.#shortLives + 1 : 0;
    this.#drop(cause);
    this.#context.onDown?.(error);
    void this.#mend();
  }

  #drop(cause: unknown): void {
    const client = this.#client;
    this.#client = undefined;
    client?.redis.disconnect();
    for (const fail of this.#pending) fail(cause);
  }

  async #mend(): Promise<void> {
    const { runtime, onRetry } = this.#context;
    const backoff = jittered(runtime, "reconnect", 100, 5_000);
    const signal = this.#closing.signal;
    try {
      if (this.#shortLives > 1) await runtime.sleep(backoff(this.#shortLives), signal);
      await retryLoop(
        (ms) => runtime.sleep(ms, signal),
        () => this.#open(),
        (cause, attempt) => {
          if (signal.aborted) return undefined;
          const error = connectError(this.#context.options.target, cause);
          this.#error = error;
          if (!error.retryable) return undefined;
          const delayMs = backoff(attempt);
          onRetry?.(attempt, delayMs, error);
          return delayMs;
        },
      );
    } catch {
      // Closed meanwhile, or refused for good: `#error` says why, `health` shows it.
      if (!signal.aborted) this.#failed = true;
      this.#wake();
    }
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }

  /** Nothing else notices a peer that has gone without a word. */
  #scheduleHeartbeat(): void {
    this.#cancelHeartbeat();
    this.#answered = true;
    const beat = (): void => {
      if (this.#client === undefined) return;
      const silent = !this.#answered;
      this.#answered = false;
      // A refusal is an answer too, and a timeout has replaced the connection.
      if (silent) this.request("PING", (redis) => redis.ping()).catch(() => undefined);
      this.#cancelHeartbeat = this.#context.runtime.setTimer(heartbeatMs, beat, { unref: true });
    };
    this.#cancelHeartbeat = this.#context.runtime.setTimer(heartbeatMs, beat, { unref: true });
  }
}

function connectionLost(target: string, cause: unknown): MessagingError {
  const error = requestError("", cause);
  const why = isReply(cause) ? error.message.replace(/^ failed: /u, "") : `${textOf(cause)}.`;
  const text = `the connection to Redis at ${target} was lost: ${why} It is being made again.`;
  return new TransportError("ERR_CONNECTION_LOST", text, { cause: error.cause });
}

/** What ioredis says of a command that it did not write to the socket. */
function isUnsent(error: unknown): boolean {
  return error instanceof Error && error.message.includes("enableOfflineQueue");
}
