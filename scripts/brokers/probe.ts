import { connect, type Socket } from "node:net";

/** Reads what has arrived so far: a result ends the talk, `undefined` waits for more, a throw fails it. */
export type Reader = (received: Buffer, socket: Socket) => string | undefined;

/**
 * One short talk with a server over a bare socket: no client library, so that it works before `npm install`
 * and cannot hide a half-open server behind retries of its own.
 */
export function talk(port: number, opening: Buffer | string, read: Reader): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: "127.0.0.1" });
    let received: Buffer = Buffer.alloc(0);
    const fail = (error: Error): void => {
      socket.destroy();
      reject(error);
    };
    // A running server answers in milliseconds; one that does not is asked again soon.
    const timer = setTimeout(() => fail(new Error(`no answer on port ${port}`)), 2000);
    socket.on("connect", () => socket.write(opening));
    socket.on("data", (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      try {
        const result = read(received, socket);
        if (result === undefined) return;
        socket.end();
        resolve(result);
      } catch (error) {
        fail(error as Error);
      }
    });
    socket.on("error", fail);
    socket.on("close", () => {
      clearTimeout(timer);
      // No effect after a result.
      reject(new Error(`port ${port} closed the connection`));
    });
  });
}
