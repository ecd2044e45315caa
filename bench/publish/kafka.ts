import { CompressionTypes, Kafka, logLevel } from "kafkajs";
import { kafka } from "postrider/kafka";
import { broker } from "../../scripts/brokers/index.ts";
import { type RawBroker, type RawWay, attributesOf } from "./contest.ts";

const topic = "bench.raw";

/** Idempotent, with all replicas in sync. */
export async function openKafka(): Promise<RawBroker> {
  const server = broker("kafka");
  await server.up();
  const { host } = new URL(server.url);
  const client = new Kafka({ brokers: [host], logLevel: logLevel.NOTHING });
  const admin = client.admin();
  await admin.connect();
  await admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions: 1 }] });
  const producer = client.producer({ idempotent: true, allowAutoTopicCreation: false });
  await producer.connect();

  const way = (name: string, headers: () => Readonly<Record<string, string>>): RawWay => ({
    name,
    async publish(bodies) {
      await producer.send({
        topic,
        acks: -1,
        compression: CompressionTypes.None,
        messages: bodies.map((value) => ({ value, headers: headers() })),
      });
    },
  });
  return {
    name: "Kafka",
    adapter: () => kafka({ brokers: [host] }),
    ways: [
      way("id and body", () => ({ id: crypto.randomUUID() })),
      way("same message", () => ({
        ...Object.fromEntries(
          Object.entries(attributesOf("bench.none")).map(([name, value]) => [`ce_${name}`, value]),
        ),
        "content-type": "application/json",
      })),
    ],
    clear: () => Promise.resolve(),
    async close() {
      await producer.disconnect();
      const ours = (await admin.listTopics()).filter((name) => name.startsWith("bench."));
      await admin.deleteTopics({ topics: ours });
      await admin.disconnect();
    },
  };
}
