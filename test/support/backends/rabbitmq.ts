/** RabbitMQ behind a proxy that does to connections what networks do, with SQLite as its database. */
import amqplib, { type Channel } from "amqplib";
import type { Backend } from "postrider/testing";
import { rabbitmq } from "postrider/rabbitmq";
import { chosenBroker } from "../../../scripts/brokers/index.ts";
import type { Adapter, GroupSpec } from "../../../src/spi.ts";
import { startFaultProxy } from "../fault-proxy.ts";
import { openSqliteDatabase } from "../sqlite-database.ts";
import { addressOf, joinBackend } from "./joined.ts";

// A dead connection is noticed after two to three heartbeats; a publish may meet several in its one minute.
const connect = (url: string): Adapter => rabbitmq({ url, heartbeat: "3s" });

export async function createBackend(address?: string): Promise<Backend> {
  if (address !== undefined) return joinBackend(address, connect);
  const server = chosenBroker("rabbitmq");
  await server.up();
  const { hostname, port, username, password } = new URL(server.url);
  const proxy = await startFaultProxy({ target: { host: hostname, port: Number(port) } });
  const login = username === "" ? "" : `${username}:${password}@`;
  const url = `amqp://${login}127.0.0.1:${proxy.port}`;
  const database = await openSqliteDatabase();
  const groups: GroupSpec[] = [];
  return {
    address: addressOf({ url, path: database.path }),
    adapter: () => remembering(connect(url), groups),
    database,
    faults: {
      holdReplies: async () => proxy.holdReplies(),
      cutConnections: () => proxy.cut(),
      stallConnections: async () => proxy.stall(),
      refuseConnections: async () => proxy.refuse(),
      slowConnections: async () => proxy.slow(),
      deleteGroup: (topic, group) =>
        onChannel(server.url, async (channel) => void (await channel.deleteQueue(`${topic}--${group}`))),
      async restartBroker() {
        await server.kill();
        await server.start();
      },
      /** In the place of the queue of dead letters is one that takes nothing. */
      async refuseDeadLetters(topic, group) {
        const dead = `${topic}--${group}--dead`;
        await onChannel(server.url, async (channel) => {
          await channel.deleteQueue(dead);
          await channel.assertQueue(dead, {
            arguments: { "x-max-length": 0, "x-overflow": "reject-publish" },
          });
        });
        // Whoever misses it next makes it again.
        return () => onChannel(server.url, async (channel) => void (await channel.deleteQueue(dead)));
      },
    },
    foreign: {
      // amqplib writes headers into 64 KiB.
      maxHeaderBytes: 60 * 1024,
      async publish(topic, messages) {
        const connection = await amqplib.connect(server.url);
        const channel = await connection.createConfirmChannel();
        for (const { headers = {}, body } of messages) {
          const table = Object.entries(headers).map(([name, value]) => [
            name,
            typeof value === "string" ? value : Buffer.from(value),
          ]);
          channel.publish(topic, "", Buffer.from(body), { headers: Object.fromEntries(table) });
        }
        await channel.waitForConfirms();
        await connection.close();
      },
    },
    async close() {
      await proxy.close();
      await onChannel(server.url, (channel) => remove(channel, groups));
      await database.close();
    },
  };
}

/** Takes down which groups were made: a server with a thousand quorum queues needs minutes to start. */
function remembering(adapter: Adapter, groups: GroupSpec[]): Adapter {
  return {
    ...adapter,
    declare(topology) {
      groups.push(...topology.groups);
      return adapter.declare(topology);
    },
    subscribe(spec, sink) {
      groups.push(spec);
      return adapter.subscribe(spec, sink);
    },
  };
}

async function remove(channel: Channel, groups: readonly GroupSpec[]): Promise<void> {
  for (const { topic, group } of groups) {
    const queue = `${topic.name}--${group}`;
    for (let i = 0; i < topic.partitions; i++) await channel.deleteQueue(`${queue}--p${i}`);
    await channel.deleteQueue(queue);
    await channel.deleteQueue(`${queue}--dead`);
    await channel.deleteExchange(topic.name);
    await channel.deleteExchange(queue);
    await channel.deleteExchange(`${queue}--rest`);
  }
}

async function onChannel(url: string, act: (channel: Channel) => Promise<void>): Promise<void> {
  const connection = await amqplib.connect(url);
  try {
    await act(await connection.createChannel());
  } finally {
    await connection.close();
  }
}
