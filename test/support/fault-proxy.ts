/** A TCP proxy in this process that does to a connection what networks do. One per broker; clients are given its port. */
import net from "node:net";
import { Transform } from "node:stream";

export interface FaultProxy {
  readonly port: number;
  /** Answers of the server are held back until the returned function is called. Requests still reach it. */
  holdReplies(): () => Promise<void>;
  /** Every open connection goes dead without a word: nothing passes any more, either way. New ones are let through. */
  stall(): void;
  /** Resets every connection (RST on both sides). New ones are let through at once. */
  cut(): Promise<void>;
  /** New connections are reset at once, until the returned function is called. */
  refuse(): () => Promise<void>;
  /** What passes over new connections comes late and in pieces of a few bytes, until the returned function is called. */
  slow(): () => Promise<void>;
  close(): Promise<void>;
}

interface Pair {
  readonly client: net.Socket;
  readonly server: net.Socket;
}

export interface FaultProxyOptions {
  readonly target: { readonly host: string; readonly port: number };
  /** Default: a free one. */
  readonly port?: number;
}

export async function startFaultProxy({ target, port = 0 }: FaultProxyOptions): Promise<FaultProxy> {
  const pairs = new Set<Pair>();
  const stalled = new Set<Pair>();
  let held = false;
  let refused = false;
  let slowed = false;

  const proxy = net.createServer({ noDelay: true }, (client) => {
    if (refused) {
      client.on("error", () => undefined).resetAndDestroy();
      return;
    }
    const server = net.connect({ ...target, noDelay: true });
    const pair = { client, server };
    pairs.add(pair);
    const end = (): void => {
      pairs.delete(pair);
      stalled.delete(pair);
      client.destroy();
      server.destroy();
    };
    for (const socket of [client, server]) socket.on("error", end).on("close", end);
    if (slowed) {
      client.pipe(inPieces()).pipe(server);
      server.pipe(inPieces()).pipe(client);
      return;
    }
    client.pipe(server);
    server.pipe(client);
    if (held) hold(pair);
  });
  await new Promise<void>((resolve, reject) => {
    proxy.once("error", reject);
    proxy.listen(port, "127.0.0.1", resolve);
  });

  return {
    port: (proxy.address() as net.AddressInfo).port,
    holdReplies() {
      held = true;
      for (const pair of pairs) hold(pair);
      return () => {
        held = false;
        for (const { client, server } of pairs) server.pipe(client);
        return Promise.resolve();
      };
    },
    stall() {
      for (const pair of pairs) {
        hold(pair);
        hold({ client: pair.server, server: pair.client });
        // Not among those that `holdReplies` lets go again.
        stalled.add(pair);
        pairs.delete(pair);
      }
    },
    async cut() {
      for (const { client, server } of pairs) {
        client.resetAndDestroy();
        server.resetAndDestroy();
      }
      pairs.clear();
    },
    refuse() {
      refused = true;
      return async () => void (refused = false);
    },
    slow() {
      slowed = true;
      return async () => void (slowed = false);
    },
    async close() {
      for (const { client, server } of [...pairs, ...stalled]) {
        client.destroy();
        server.destroy();
      }
      await new Promise<void>((resolve) => proxy.close(() => resolve()));
    },
  };
}

/** Stops reading what the server answers; TCP's own flow control keeps it. */
function hold({ client, server }: Pair): void {
  server.unpipe(client);
  server.pause();
}

/** Late, and in pieces that no frame of any protocol fits into. */
function inPieces(): Transform {
  const lateMs = 20;
  const pieceBytes = 7;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      setTimeout(() => {
        for (let at = 0; at < chunk.length; at += pieceBytes) this.push(chunk.subarray(at, at + pieceBytes));
        done();
      }, lateMs);
    },
  });
}
