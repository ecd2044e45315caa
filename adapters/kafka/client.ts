/**
 * One client of kafkajs, with what the library itself does not offer: an end. A client that is given up goes on retrying
 * and reconnects by itself; here its sockets can be destroyed, no new one is made, and its retries run out at once.
 */
import net from "node:net";
import tls from "node:tls";
import type { ConnectionOptions } from "node:tls";
import type kafkajs from "kafkajs";
import type { ISocketFactoryArgs, Kafka, LogEntry, RetryOptions } from "kafkajs";
import { isTlsCode } from "../../src/spi.ts";
import type { CheckedOptions } from "./options.ts";

/** The loaded client library. */
export type KafkaJs = typeof kafkajs;

export interface ClientSetup {
  readonly library: KafkaJs;
  readonly options: CheckedOptions;
  /** Retries of each call, and how long they wait. */
  readonly retry: { readonly retries: number; readonly maxRetryTime: number };
  /** Warnings and errors that the client logs. */
  readonly onLog: (entry: LogEntry) => void;
  /** A connection ended. */
  readonly onSocketLost?: (() => void) | undefined;
}

export interface Client {
  readonly kafka: Kafka;
  /** What consumers must be given again: they do not inherit it. */
  readonly retry: RetryOptions;
  /** Produce requests written so far. The client does not say whether one was sent before it failed. */
  readonly produceRequests: number;
  /** Ends it now: connections, requests under way, retries. */
  kill(): void;
}

const connectionTimeoutMs = 5_000;
/** Longest wait for an answer. Joining a group waits longer, as the client knows. */
const requestTimeoutMs = 10_000;
const keepAliveMs = 30_000;
const produceApiKey = 0;

/**
 * Makes a client. Each consumer needs one of its own: consumers of one client and one group share, and clear, one record of
 * committed offsets.
 */
export function openClient({ library, options, retry, onLog, onSocketLost }: ClientSetup): Client {
  const sockets = new Set<net.Socket>();
  let killed = false;
  /** The latest connection failed of its certificate, or ours: no repetition heals that, but the client would try. */
  let untrusted = false;
  let produceRequests = 0;

  const socketFactory = ({ host, port, ssl, onConnect }: ISocketFactoryArgs): net.Socket => {
    if (killed) throw new Error("the client was closed");
    const socket = connect(host, port, ssl, onConnect);
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, keepAliveMs);
    socket.on("error", (error) => (untrusted = isTlsCode((error as NodeJS.ErrnoException).code)));
    socket.on("secureConnect", () => (untrusted = false));
    socket.on("close", () => {
      sockets.delete(socket);
      if (!killed) onSocketLost?.();
    });
    countProduceRequests(socket, () => (produceRequests += 1));
    return socket;
  };

  /** The client compares with `retries` before each retry, through all its layers: an object is asked anew each time. */
  const retries = { valueOf: () => (killed || untrusted ? 0 : retry.retries) } as unknown as number;
  const retryOptions: RetryOptions = {
    retries,
    initialRetryTime: 50,
    maxRetryTime: retry.maxRetryTime,
    factor: 0.2,
  };

  return {
    kafka: new library.Kafka({
      brokers: [...options.brokers],
      clientId: options.clientId,
      ssl: options.tls ?? false,
      ...(options.sasl === undefined ? {} : { sasl: options.sasl }),
      connectionTimeout: connectionTimeoutMs,
      requestTimeout: requestTimeoutMs,
      retry: retryOptions,
      socketFactory,
      logLevel: library.logLevel.WARN,
      logCreator: () => onLog,
    }),
    retry: retryOptions,
    get produceRequests() {
      return produceRequests;
    },
    kill() {
      killed = true;
      // With an error, because a plain end would leave requests waiting for their timeout.
      for (const socket of sockets) socket.destroy(new Error("the client was closed"));
    },
  };
}

function connect(
  host: string,
  port: number,
  ssl: ConnectionOptions | undefined,
  onConnect: () => void,
): net.Socket {
  // The client passes `false` on, against its types.
  if (!(ssl as ConnectionOptions | boolean | undefined)) return net.connect({ host, port }, onConnect);
  const servername = net.isIP(host) === 0 ? { servername: host } : {};
  return tls.connect({ host, port, ...servername, ...ssl }, onConnect);
}

/** A request is written at once and whole: its size in four bytes, then its kind in two. */
function countProduceRequests(socket: net.Socket, count: () => void): void {
  const write = socket.write.bind(socket) as (...args: unknown[]) => boolean;
  socket.write = (...args: unknown[]): boolean => {
    const [chunk] = args;
    if (Buffer.isBuffer(chunk) && chunk.length >= 6 && chunk.readInt16BE(4) === produceApiKey) count();
    return write(...args);
  };
}
