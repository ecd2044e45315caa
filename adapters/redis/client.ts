/** One ioredis client: one connection, which is never mended but replaced. */
import type { Redis } from "ioredis";
import { type Runtime, loadPeer } from "../../src/spi.ts";
import { connectError, replyCode } from "./errors.ts";
import type { CheckedOptions } from "./options.ts";

export interface OpenContext {
  readonly options: CheckedOptions;
  readonly runtime: Runtime;
  /** Shown by `CLIENT LIST`. */
  readonly name: string;
  /** Gives up connecting. */
  readonly signal: AbortSignal;
}

export interface OpenClient {
  readonly redis: Redis;
  /** The latest error of the connection: why it was lost. */
  lastError(): unknown;
}

/** Connects, and makes sure that the server answers commands. Rejects with what `errors.ts` makes of the failure. */
export async function openClient(context: OpenContext): Promise<OpenClient> {
  const { options, runtime, signal } = context;
  const { Redis } = await loadPeer("ioredis", () => import("ioredis"));
  const redis = new Redis({
    host: options.host,
    port: options.port,
    db: options.database,
    ...(options.username === undefined ? {} : { username: options.username }),
    ...(options.password === undefined ? {} : { password: options.password }),
    ...(options.tls === undefined ? {} : { tls: options.tls }),
    connectionName: context.name,
    connectTimeout: options.connectTimeoutMs,
    // RESP3 gives nothing here, and asks for HELLO, which an ACL may not allow.
    protocol: 2,
    disableClientInfo: true,
    lazyConnect: true,
    // Its own reconnect sends unanswered commands again, and so stores messages twice: one client is one connection.
    retryStrategy: () => null,
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    enableOfflineQueue: false,
    enableReadyCheck: false,
    maxRetriesPerRequest: 0,
  });
  let lastError: unknown;
  // Never taken off: an error event that nobody listens to is printed.
  redis.on("error", (error: unknown) => (lastError = error));
  try {
    await within(runtime, options.connectTimeoutMs, signal, ready(redis));
    // A SELECT that was refused is only an event: going on would mean working on another database.
    if (lastError !== undefined) throw lastError;
    return { redis, lastError: () => lastError };
  } catch (cause) {
    redis.disconnect();
    throw connectError(options.target, lastError ?? cause, options.tls !== undefined);
  }
}

/** The server may accept connections while it reads its files, or want a password first: only an answer counts. */
async function ready(redis: Redis): Promise<void> {
  await redis.connect();
  await redis.ping().catch((error: unknown) => {
    if (replyCode(error) !== "NOPERM") throw error;
  });
}

/** `work`, unless the time is over or the signal aborts first; what it does then is ignored. */
function within<T>(runtime: Runtime, ms: number, signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    const cancel = runtime.setTimer(ms, () => reject(new Error(`no answer within ${ms} ms`)));
    work.then(resolve, reject).finally(() => {
      cancel();
      signal.removeEventListener("abort", onAbort);
    });
  });
}
