/** The message broker of a run: any that is up, without what an earlier run has left there. */
import { connect } from "amqplib";
import { Redis } from "ioredis";
import { type Place, group, letters } from "./shared.ts";

export async function removeTopology({ broker, brokerUrl }: Place): Promise<void> {
  if (broker === "redis") {
    const client = new Redis(brokerUrl);
    const keys = await client.keys(`*${letters.name}*`);
    for (let at = 0; at < keys.length; at += 1_000) await client.unlink(keys.slice(at, at + 1_000));
    await client.quit();
    return;
  }
  const connection = await connect(brokerUrl);
  const channel = await connection.createChannel();
  const queue = `${letters.name}--${group}`;
  for (const name of [queue, `${queue}--dead`]) await channel.deleteQueue(name);
  await channel.deleteExchange(letters.name);
  await connection.close();
}
