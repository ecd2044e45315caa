import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { talk } from "./probe.ts";
import { find, type Program } from "./programs.ts";
import type { Server } from "./server.ts";

const redisServer: Program = { name: "redis-server", debian: ["redis-server"], brew: "redis" };

export const redis: Server = {
  name: "redis",
  ports: 1,
  stopSignal: "SIGTERM",
  readyWithinMs: 20_000,
  url: (port) => `redis://127.0.0.1:${port}`,
  programs: () => [redisServer],

  prepare: async ({ home }) => {
    await mkdir(join(home, "data"), { recursive: true });
  },

  command: ({ home, port }) => ({
    file: find(redisServer),
    args: Object.entries(settings(home, port)).flatMap(([name, value]) => [`--${name}`, value]),
    env: { LC_ALL: "C" },
    cwd: home,
  }),

  probe: (port) =>
    talk(port, "PING\r\nINFO server\r\n", (received) => {
      const text = received.toString("latin1");
      // While it reads its files it answers "-LOADING".
      if (text.startsWith("-")) throw new Error(text);
      return /^\+PONG\r\n[^]*\nredis_version:(\S+)\r\n/.exec(text)?.[1];
    }),
};

/** An acknowledged write is on disk and is never evicted: what a store of messages needs. */
function settings(home: string, port: number): Record<string, string> {
  return {
    port: `${port}`,
    bind: "127.0.0.1",
    dir: join(home, "data"),
    appendonly: "yes",
    appendfsync: "always",
    save: "",
    maxmemory: "512mb",
    "maxmemory-policy": "noeviction",
  };
}
