import { connect, type Options } from "amqplib";
import { rabbitmq } from "postrider/rabbitmq";
import { broker } from "../../scripts/brokers/index.ts";
import { type RawBroker, type RawWay, attributesOf } from "./contest.ts";

const exchange = "bench-raw";
const queue = "bench-raw--bench";

/** Into a quorum queue, persistent, `mandatory`, on a channel with confirms. */
export async function openRabbitmq(): Promise<RawBroker> {
  const server = broker("rabbitmq");
  await server.up();
  const connection = await connect(server.url);
  const channel = await connection.createConfirmChannel();
  await channel.assertExchange(exchange, "topic");
  await channel.assertQueue(queue, { arguments: { "x-queue-type": "quorum" } });
  await channel.bindQueue(queue, exchange, "#");
  let returned = 0;
  channel.on("return", () => (returned += 1));

  const way = (name: string, properties: () => Options.Publish): RawWay => ({
    name,
    async publish(bodies) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      let missing = bodies.length;
      const onAnswer = (error: unknown): void => {
        missing -= 1;
        if (error !== null) reject(error);
        else if (missing === 0) resolve();
      };
      for (const body of bodies)
        channel.publish(exchange, "bench.none", Buffer.from(body), properties(), onAnswer);
      await promise;
      if (returned > 0) throw new Error("a message came back");
    },
  });
  return {
    name: "RabbitMQ",
    adapter: () => rabbitmq({ url: server.url }),
    ways: [
      way("id and body", () => ({ deliveryMode: 2, mandatory: true, messageId: crypto.randomUUID() })),
      way("same message", () => {
        const headers = Object.fromEntries(
          Object.entries(attributesOf("bench.none")).map(([name, value]) => [`cloudEvents:${name}`, value]),
        );
        return {
          deliveryMode: 2,
          mandatory: true,
          messageId: headers["cloudEvents:id"] as string,
          contentType: "application/json",
          timestamp: Math.floor(Date.now() / 1_000),
          headers,
        };
      }),
    ],
    async clear() {
      for (const name of [queue, "bench.none--bench", "bench.key--bench"])
        await channel.purgeQueue(name).catch(() => undefined);
    },
    async close() {
      await channel.deleteQueue(queue);
      await channel.deleteExchange(exchange);
      for (const topic of ["bench.none", "bench.key"]) {
        await channel.deleteQueue(`${topic}--bench`);
        await channel.deleteQueue(`${topic}--bench--dead`);
        await channel.deleteExchange(topic);
      }
      await connection.close();
    },
  };
}
