import { type ChainableCommander, Redis } from "ioredis";
import { redis } from "postrider/redis";
import { broker } from "../../scripts/brokers/index.ts";
import { type RawBroker, type RawWay, attributesOf } from "./contest.ts";

const stream = "{bench.raw}";
/** `XADD`, unless a message of this id was added lately: what a careful user does against a publish that is repeated. */
const addOnce = `
if redis.call('SET', KEYS[2], 1, 'NX', 'PX', ARGV[1]) then
  return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
end`;
const windowMs = 10 * 60_000;

type Add = (pipeline: ChainableCommander, id: string, fields: readonly string[]) => void;

export async function openRedis(): Promise<RawBroker> {
  const server = broker("redis");
  await server.up();
  const client = new Redis(server.url);
  const hash = (await client.script("LOAD", addOnce)) as string;

  const way = (name: string, attributes: () => Readonly<Record<string, string>>, add: Add): RawWay => ({
    name,
    async publish(bodies) {
      const pipeline = client.pipeline();
      for (const body of bodies) {
        const fields = Object.entries(attributes()).flat();
        add(pipeline, fields[1] as string, [...fields, "data", body]);
      }
      for (const [error] of (await pipeline.exec()) ?? []) if (error !== null) throw error;
    },
  });
  const plain: Add = (pipeline, _id, fields) => pipeline.xadd(stream, "*", ...fields);
  const once: Add = (pipeline, id, fields) =>
    pipeline.evalsha(hash, 2, stream, `${stream}:id:${id}`, windowMs, ...fields);
  const idOnly = (): Readonly<Record<string, string>> => ({ id: crypto.randomUUID() });
  const all = (): Readonly<Record<string, string>> => {
    const { id, ...others } = attributesOf("bench.none");
    const fields = Object.entries(others).map(([name, value]) => [`ce_${name}`, value] as const);
    return { ce_id: id as string, ...Object.fromEntries(fields), "content-type": "application/json" };
  };
  return {
    name: "Redis",
    adapter: () => redis({ url: server.url }),
    ways: [
      way("id and body, XADD", idOnly, plain),
      way("same message, XADD", all, plain),
      way("same message, once (a script)", all, once),
    ],
    note: "Our adapter adds a message once per id, which a bare XADD does not.",
    async clear() {
      const keys = await client.keys("*bench.*");
      for (let at = 0; at < keys.length; at += 1_000) await client.unlink(keys.slice(at, at + 1_000));
    },
    async close() {
      await client.quit();
    },
  };
}
