import { connect, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { portVariable, type Place } from "./settings.ts";

/** Rejects if somebody else listens on one of the instance's ports. */
export async function assertPortsFree(place: Place, count: number): Promise<void> {
  for (let port = place.port; port < place.port + count; port += 1) {
    if (await isFree(port)) continue;
    const several = count > 1 ? ` (the first of ${count} in a row)` : "";
    throw new Error(
      `port ${port} on 127.0.0.1 is taken by another process. ` +
        `Stop that one, or set ${portVariable(place.name)} to a free port${several}.`,
    );
  }
}

/** Resolves when somebody listens on the port. */
export async function untilOpen(port: number, withinMs: number): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await isOpen(port))) {
    if (performance.now() > deadline)
      throw new Error(`nobody listens on port ${port} after ${withinMs / 1000} s`);
    await sleep(10);
  }
}

// Listening is the only sure proof of a free port, but it would get in the way of a server that starts.
function isFree(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") resolve(false);
      else reject(error);
    });
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
  });
}

function isOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.once("error", () => resolve(false));
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
  });
}
