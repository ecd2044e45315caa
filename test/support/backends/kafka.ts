/** The Kafka adapter on the private broker, through a proxy on the port that the broker tells its clients. */
import kafkajs from "kafkajs";
import { kafka } from "postrider/kafka";
import type { Backend, ForeignMessage } from "postrider/testing";
import { type Broker, chosenBroker } from "../../../scripts/brokers/index.ts";
import { type FaultProxy, startFaultProxy } from "../fault-proxy.ts";
import { openSqliteDatabase } from "../sqlite-database.ts";
import { addressOf, joinBackend } from "./joined.ts";

/** Topics of scenarios and of their child processes, with all that belongs to them. */
const ofScenarios = /^(?:[a-z]\d+-\d+-[0-9a-f]{12}|child-\d+-\d+)(?:--|$)/u;

export async function createBackend(address?: string): Promise<Backend> {
  if (address !== undefined) return joinBackend(address, (url) => kafka({ url }));
  const server = chosenBroker("kafka");
  await server.up();
  const proxy = await openProxy(server);
  const database = await openSqliteDatabase();
  const url = `kafka://127.0.0.1:${proxy.port}`;
  return {
    address: addressOf({ url, path: database.path }),
    adapter: () => kafka({ url }),
    database,
    faults: {
      holdReplies: async () => proxy.holdReplies(),
      cutConnections: () => proxy.cut(),
      stallConnections: async () => proxy.stall(),
      refuseConnections: async () => proxy.refuse(),
      slowConnections: async () => proxy.slow(),
      deleteGroup: (topic) => remakeTopic(server.url, topic),
      async restartBroker() {
        await server.kill();
        await server.start();
      },
      /** The topic of dead letters takes no record, however small. */
      async refuseDeadLetters(topic, group) {
        const limit = await setTopicLimit(server.url, `${topic}--${group}--dead`, "1");
        return async () => void (await setTopicLimit(server.url, `${topic}--${group}--dead`, limit));
      },
    },
    foreign: {
      // A topic takes a megabyte in one batch.
      maxHeaderBytes: 800 * 1024,
      publish: (topic, messages) => publishForeign(server.url, topic, messages),
    },
    async close() {
      await removeTopics(server.url);
      await proxy.close();
      await database.close();
    },
  };
}

/** Whoever has the port has the broker to itself; another test file waits here until it is its turn. */
async function openProxy({ proxied }: Broker): Promise<FaultProxy> {
  if (proxied === undefined) throw new Error("faults need a broker of our own");
  const target = { host: "127.0.0.1", port: proxied.listen };
  for (;;) {
    try {
      return await startFaultProxy({ target, port: proxied.advertised });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

/** A topic has no groups of its own: what a group has not read goes with the topic. */
function remakeTopic(url: string, topic: string): Promise<void> {
  return withAdmin(url, async (admin) => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
    await admin.deleteTopics({ topics: [topic] });
    await admin.createTopics({ topics: [{ topic, numPartitions: topics[0]?.partitions.length ?? 1 }] });
  });
}

async function publishForeign(
  url: string,
  topic: string,
  messages: readonly ForeignMessage[],
): Promise<void> {
  const { host } = new URL(url);
  const producer = new kafkajs.Kafka({ brokers: [host], logLevel: kafkajs.logLevel.NOTHING }).producer();
  await producer.connect();
  for (const { headers = {}, body } of messages) {
    const buffers = Object.entries(headers).map(([name, value]) => [name, Buffer.from(value)]);
    const record = {
      value: Buffer.from(body),
      headers: Object.fromEntries(buffers) as Record<string, Buffer>,
    };
    await producer.send({ topic, messages: [record] });
  }
  await producer.disconnect();
}

/** Sets the largest batch of records a topic takes; resolves with what it was. */
function setTopicLimit(url: string, name: string, limit: string): Promise<string> {
  const resource = { type: kafkajs.ConfigResourceTypes.TOPIC, name };
  return withAdmin(url, async (admin) => {
    const { resources } = await admin.describeConfigs({ resources: [resource], includeSynonyms: false });
    // The broker resets what it is not told.
    const own = (resources[0]?.configEntries ?? [])
      .filter(({ configSource }) => configSource === kafkajs.ConfigSource.TOPIC_CONFIG)
      .map(({ configName, configValue }) => ({ name: configName, value: configValue }));
    const entry = own.find((one) => one.name === "max.message.bytes");
    if (entry === undefined) throw new Error(`topic "${name}" has no limit of its own`);
    const before = entry.value;
    entry.value = limit;
    await admin.alterConfigs({ validateOnly: false, resources: [{ ...resource, configEntries: own }] });
    return before;
  });
}

/** A broker does not mind a few hundred topics, but it does mind those of a hundred runs. */
function removeTopics(url: string): Promise<void> {
  return withAdmin(url, async (admin) => {
    const topics = (await admin.listTopics()).filter((topic) => ofScenarios.test(topic));
    if (topics.length > 0) await admin.deleteTopics({ topics });
  });
}

async function withAdmin<T>(url: string, use: (admin: kafkajs.Admin) => Promise<T>): Promise<T> {
  const { host } = new URL(url);
  const admin = new kafkajs.Kafka({ brokers: [host], logLevel: kafkajs.logLevel.NOTHING }).admin();
  await admin.connect();
  try {
    return await use(admin);
  } finally {
    await admin.disconnect();
  }
}
