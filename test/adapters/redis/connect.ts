import { MessagingError, createBus, defineTopic } from "postrider";
import { redis } from "postrider/redis";
import { eventually } from "postrider/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import {
  collect,
  openAdapter,
  openBus,
  publish,
  rawClient,
  second,
  server,
  subscribe,
  throughProxy,
  unique,
} from "./bench.ts";

const password = "hunter2-secret";

/** A user of the server's ACL, removed after the test. */
async function user(name: string, ...rules: readonly string[]): Promise<string> {
  const client = rawClient();
  await client.acl("SETUSER", name, "on", `>${password}`, ...rules);
  onTestFinished(async () => void (await client.acl("DELUSER", name)));
  const { host } = new URL(server.url);
  return `redis://${name}:${password}@${host}`;
}

async function failureOf(url: string, options: object = {}): Promise<MessagingError> {
  const { bus } = openBus({ url, ...options });
  const error: unknown = await bus.connect().catch((reason: unknown) => reason);
  if (!MessagingError.is(error)) throw new Error(`connected, or failed otherwise: ${String(error)}`);
  return error;
}

export function connecting(): void {
  describe("refuses", () => {
    test.each([
      [{ url: "http://localhost" }, /redis url must be redis:/u],
      [{ url: "redis://:secret@host:port" }, /redis url must be redis:/u],
      [{ url: "redis://localhost/orders" }, /number of a database/u],
      [{ url: "redis://localhost?db=1" }, /takes no query/u],
      [{ url: "redis://localhost", pasword: "x" }, /did you mean "password"/u],
      [{ url: "redis://localhost", tls: true }, /redis tls: options must be an object/u],
      [{ url: "redis://localhost", dedupeWindow: 0 }, /dedupeWindow/u],
      [{ url: "redis://localhost", replicas: -1 }, /replicas/u],
      [{ url: "redis://localhost", commandTimeout: "10 parsecs" }, /commandTimeout/u],
      [{ url: 7 }, /redis url must be redis:/u],
    ] as const)("%j", (options, message) => {
      expect(() => redis(options as never)).toThrow(message);
      try {
        redis(options as never);
      } catch (error) {
        expect(String(error)).not.toContain("secret");
      }
    });
  });

  test("a missing password is for good", async () => {
    const client = rawClient();
    await client.config("SET", "requirepass", password);
    onTestFinished(async () => void (await client.config("SET", "requirepass", "")));

    const error = await failureOf(server.url);
    const { adapter } = await openAdapter({ password });

    expect([error.code, error.retryable]).toEqual(["ERR_AUTH", false]);
    expect(adapter.health().connected).toBe(true);
  });

  test("a password that is changed while it runs makes health say so", async () => {
    const client = rawClient();
    const name = unique("user");
    const url = await user(name, "allcommands", "allkeys", "allchannels");
    const topic = unique("rotated");
    const { adapter } = await openAdapter({ url });
    const subscription = await subscribe(adapter, topic, collect());

    await client.acl("SETUSER", name, "resetpass", ">another");
    await client.client("KILL", "USER", name);
    await eventually(() => expect(adapter.health().error?.code).toBe("ERR_AUTH"));
    await eventually(() => expect(subscription.health().error?.code).toBe("ERR_AUTH"));

    expect(adapter.health().connected).toBe(false);
    expect(subscription.health().consuming).toBe(false);
  });

  test("a user who may not look at the server's settings can work all the same", async () => {
    const topic = unique("restricted");
    const commands = [
      "+evalsha",
      "+eval",
      "+xreadgroup",
      "+xread",
      "+xgroup",
      "+xpending",
      "+xclaim",
      "+xautoclaim",
    ];
    const scripted = [
      "+xadd",
      "+xack",
      "+xdel",
      "+xrange",
      "+xtrim",
      "+xinfo",
      "+exists",
      "+set",
      "+get",
      "+type",
    ];
    const more = ["+time", "+zadd", "+zrem", "+zrange", "+zrangebyscore", "+hset", "+hget", "+hdel", "+xlen"];
    const url = await user(unique("user"), ...commands, ...scripted, ...more, `~{${topic}}*`);
    const { adapter, events } = await openAdapter({ url });
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);
    await publish(adapter, topic, "a");
    const [a] = await sink.atLeast(1);

    expect(await subscription.defer(a!, 0, {})).toEqual({ status: "done" });
    const [, again] = await sink.atLeast(2);
    expect(await subscription.deadLetter(again!, {})).toEqual({ status: "done" });
    await subscription.close();
    expect(events.filter(({ type }) => type === "warning")).toEqual([]);
  });

  test("a user who may not touch the topic is told so", async () => {
    const url = await user(unique("user"), "allcommands", "~other*");
    const { bus } = openBus({ url });
    const topic = defineTopic<string>(unique("forbidden"));

    await expect(bus.publish(topic, "a")).rejects.toMatchObject({ code: "ERR_AUTH", accepted: "no" });
    await expect(bus.consume(topic, { group: "g" }, () => undefined)).rejects.toMatchObject({
      code: "ERR_AUTH",
    });
  });

  test("a database that does not exist is refused, not another one used", async () => {
    const error = await failureOf(`${server.url}/999`);

    expect([error.code, error.retryable]).toEqual(["ERR_CONNECT", false]);
  });

  test("another database is another broker", async () => {
    const topic = unique("database");
    const { adapter } = await openAdapter({ url: `${server.url}/3` });
    await publish(adapter, topic, "a");

    expect(await rawClient().exists(`{${topic}}`)).toBe(0);
    expect(await rawClient(`${server.url}/3`).xlen(`{${topic}}`)).toBe(1);
  });

  test("a server that is not there is said to be so, with its address", async () => {
    const { bus, events } = openBus({ url: "redis://127.0.0.1:1" }, { connectTimeout: 200 });

    await expect(bus.connect()).rejects.toMatchObject({
      code: "ERR_CONNECT",
      retryable: true,
      message: expect.stringContaining("127.0.0.1:1 "),
    });
    expect(events.some(({ type }) => type === "reconnecting")).toBe(true);
  });

  test("a server that accepts and says nothing is given up in time", async () => {
    const proxy = await throughProxy();
    proxy.holdReplies();

    await expect(openAdapter({ url: proxy.url, connectTimeout: 200 })).rejects.toMatchObject({
      code: "ERR_CONNECT",
      message: expect.stringContaining("within 200 ms"),
    });
  });

  test("a replica is no server to work with", async () => {
    await second.up();
    const replica = rawClient(second.url);
    onTestFinished(async () => void (await replica.replicaof("NO", "ONE")));
    await replica.replicaof("127.0.0.1", new URL(server.url).port);
    await eventually(async () => expect(await replica.info("replication")).toContain("role:slave"));

    await expect(openAdapter({ url: second.url })).rejects.toMatchObject({
      code: "ERR_CONNECT",
      message: expect.stringContaining("replica"),
    });
  });

  test("settings that cannot keep the promise are warned of by name, once", async () => {
    const client = rawClient();
    const settings = { appendonly: "no", "maxmemory-policy": "allkeys-lru" };
    onTestFinished(async () => {
      await client.config(
        "SET",
        "appendonly",
        "yes",
        "appendfsync",
        "always",
        "maxmemory-policy",
        "noeviction",
      );
      await eventually(async () =>
        expect(await client.info("persistence")).toContain("aof_rewrite_in_progress:0"),
      );
    });
    const warningsOf = async (): Promise<string[]> => {
      const { adapter, events } = await openAdapter();
      await adapter.close();
      return events.flatMap((event) => (event.type === "warning" ? [event.code] : []));
    };

    expect(await warningsOf()).toEqual([]);
    await client.config("SET", ...Object.entries(settings).flat());
    expect(await warningsOf()).toEqual(["REDIS_EVICTION", "REDIS_APPENDONLY"]);
    await client.config(
      "SET",
      "appendonly",
      "yes",
      "appendfsync",
      "everysec",
      "maxmemory-policy",
      "noeviction",
    );
    expect(await warningsOf()).toEqual(["REDIS_APPENDFSYNC"]);
  });

  test("opening and closing again and again leaves no connection", async () => {
    const client = rawClient();
    const connections = async (): Promise<number> =>
      String(await client.client("LIST"))
        .split("\n")
        .filter((line) => line.includes("name=postrider:")).length;
    const before = await connections();
    for (let i = 0; i < 20; i++) {
      const bus = createBus({ adapter: redis({ url: server.url }) });
      await bus.consume(defineTopic(unique("cycle")), { group: "g" }, () => undefined);
      await bus.close();
    }

    await eventually(async () => expect(await connections()).toBe(before));
  });
}
