/** Real brokers: the adapters, and raw clients that publish the same bodies to the same place. */
import { connect } from "amqplib";
import { Redis } from "ioredis";
import type { Adapter } from "postrider/spi";
import { rabbitmq } from "postrider/rabbitmq";
import { redis } from "postrider/redis";
import { broker } from "../../scripts/brokers/index.ts";
import { keyed, keyless } from "./database.ts";

export interface BrokerUnderTest {
  readonly name: string;
  readonly adapter: () => Adapter;
  /** Publishes and waits for the confirmation of all. */
  publish(bodies: readonly string[]): Promise<void>;
  /** Removes what was published. */
  clear(): Promise<void>;
  close(): Promise<void>;
}

export async function openRabbitmq(): Promise<BrokerUnderTest> {
  const server = broker("rabbitmq");
  await server.up();
  const connection = await connect(server.url);
  const channel = await connection.createConfirmChannel();
  const properties = { deliveryMode: 2, mandatory: true };
  return {
    name: "RabbitMQ",
    adapter: () => rabbitmq({ url: server.url }),
    async publish(bodies) {
      for (const body of bodies) channel.publish(keyless.name, keyless.name, Buffer.from(body), properties);
      await channel.waitForConfirms();
    },
    async clear() {
      for (const topic of [keyless, keyed]) await channel.purgeQueue(`${topic.name}--bench`);
    },
    async close() {
      for (const topic of [keyless, keyed]) {
        await channel.deleteQueue(`${topic.name}--bench`);
        await channel.deleteQueue(`${topic.name}--bench--dead`);
        await channel.deleteExchange(topic.name);
      }
      await connection.close();
    },
  };
}

export async function openRedis(): Promise<BrokerUnderTest> {
  const server = broker("redis");
  await server.up();
  const client = new Redis(server.url);
  const stream = "bench:raw";
  return {
    name: "Redis",
    adapter: () => redis({ url: server.url }),
    async publish(bodies) {
      const pipeline = client.pipeline();
      for (const body of bodies) pipeline.xadd(stream, "*", "id", crypto.randomUUID(), "body", body);
      await pipeline.exec();
    },
    async clear() {
      const keys = await client.keys("*bench.*");
      for (let at = 0; at < keys.length; at += 1_000) await client.unlink(keys.slice(at, at + 1_000));
      await client.del(stream);
    },
    async close() {
      await client.quit();
    },
  };
}
