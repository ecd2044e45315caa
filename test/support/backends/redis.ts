/** The Redis adapter on the private Redis, reached through a proxy that can do what networks do. */
import { Redis } from "ioredis";
import { redis } from "postrider/redis";
import type { Backend } from "postrider/testing";
import { chosenBroker } from "../../../scripts/brokers/index.ts";
import { startFaultProxy } from "../fault-proxy.ts";
import { openSqliteDatabase } from "../sqlite-database.ts";
import { addressOf, joinBackend } from "./joined.ts";

export async function createBackend(address?: string): Promise<Backend> {
  if (address !== undefined) return joinBackend(address, (url) => redis({ url }));
  const server = chosenBroker("redis");
  await server.up();
  const { hostname, port } = new URL(server.url);
  const proxy = await startFaultProxy({ target: { host: hostname, port: Number(port) } });
  const url = `redis://127.0.0.1:${proxy.port}`;
  const database = await openSqliteDatabase();
  return {
    address: addressOf({ url, path: database.path }),
    adapter: () => redis({ url }),
    database,
    faults: {
      holdReplies: () => Promise.resolve(proxy.holdReplies()),
      cutConnections: () => proxy.cut(),
      stallConnections: async () => proxy.stall(),
      refuseConnections: async () => proxy.refuse(),
      slowConnections: async () => proxy.slow(),
      async deleteGroup(topic, group) {
        const client = new Redis(server.url, { lazyConnect: true });
        await client.xgroup("DESTROY", `{${topic}}`, group);
        client.disconnect();
      },
      async restartBroker() {
        await server.kill();
        await server.start();
      },
      /** In the place of the stream of dead letters is something that is no stream. */
      async refuseDeadLetters(topic, group) {
        const client = new Redis(server.url, { lazyConnect: true });
        const key = `{${topic}}--${group}--dead`;
        await client.set(key, "no stream");
        return async () => {
          await client.del(key);
          client.disconnect();
        };
      },
    },
    foreign: {
      maxHeaderBytes: 2 * 1_048_576,
      async publish(topic, messages) {
        const client = new Redis(server.url);
        for (const { headers = {}, body } of messages) {
          const fields = Object.entries(headers).flatMap(([name, value]) => [name, Buffer.from(value)]);
          await client.xadd(`{${topic}}`, "*", ...fields, "data", Buffer.from(body));
        }
        client.disconnect();
      },
    },
    async close() {
      await proxy.close();
      await database.close();
    },
  };
}
