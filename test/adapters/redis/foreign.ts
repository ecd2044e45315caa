import { defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import {
  collect,
  message,
  openAdapter,
  openBus,
  outgoing,
  publish,
  rawClient,
  subscribe,
  unique,
} from "./bench.ts";

export function foreign(): void {
  test("what we publish can be read as it is by any program", async () => {
    const topic = unique("flat");
    const { adapter } = await openAdapter();
    const wire = message('{"n":1}', {
      attributes: {
        specversion: "1.0",
        id: "id-1",
        source: "shop",
        type: topic,
        datacontenttype: "application/json",
        partitionkey: "k",
      },
      headers: { tenant: "acme", "pr-failures": "2" },
      key: "k",
    });

    await adapter.publish([outgoing(topic, wire)]);

    const [[, fields]] = (await rawClient().xrange(`{${topic}}`, "-", "+")) as [[string, string[]]];
    expect(fields).toEqual([
      "ce_specversion",
      "1.0",
      "ce_id",
      "id-1",
      "ce_source",
      "shop",
      "ce_type",
      topic,
      "content-type",
      "application/json",
      "ce_partitionkey",
      "k",
      "h_tenant",
      "acme",
      "pr-failures",
      "2",
      "data",
      '{"n":1}',
    ]);
  });

  test("an entry of another program is a message, whatever is missing from it", async () => {
    const topic = unique("foreign");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    await client.xadd(`{${topic}}`, "5-1", "data", "body", "tenant", "acme", "content-type", "text/plain");
    await client.xadd(`{${topic}}`, "5-2", "unknown", "field");
    await client.xadd(`{${topic}}`, "5-3", "", "", "ce_", "", "h_", "", "__proto__", "x");
    await client.xadd(`{${topic}}`, "5-4", "data", "first", "data", "second");

    const subscription = await subscribe(adapter, topic, sink);
    await sink.atLeast(4);

    const [whole, bare, odd, twice] = sink.delivered.map(
      ({ message: { attributes, headers, key, body }, position }) => ({
        attributes: { ...attributes },
        headers: Object.entries(headers),
        key,
        body: body === null ? null : Buffer.from(body).toString(),
        position,
      }),
    );
    expect(whole).toEqual({
      attributes: { datacontenttype: "text/plain" },
      headers: [["tenant", "acme"]],
      key: undefined,
      body: "body",
      position: "5-1",
    });
    expect(bare).toMatchObject({ headers: [["unknown", "field"]], body: null, position: "5-2" });
    expect(odd?.headers).toContainEqual(["__proto__", "x"]);
    expect(twice?.body).toBe("first");
    expect(({} as Record<string, unknown>)["x"]).toBeUndefined();
    const results = await subscription.ack(sink.delivered);
    expect(results.every(({ status }) => status === "done")).toBe(true);
  });

  test("an entry with thousands of fields stops nobody: it is deferred and dead-lettered with its body", async () => {
    const topic = unique("huge");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    const many = Array.from({ length: 5_000 }, (_, i) => [`f${i}`, `${i}`]).flat();
    await client.xadd(
      `{${topic}}`,
      "*",
      ...many,
      "long",
      "x".repeat(1_000_000),
      "data",
      "body",
      "ce_id",
      "huge",
    );
    const subscription = await subscribe(adapter, topic, sink);
    await publish(adapter, topic, "next");
    const [huge] = await sink.atLeast(2);

    expect(JSON.stringify(huge!.message.headers).length).toBeLessThan(400_000);
    expect(huge!.message.headers["f0"]).toBe("0");
    expect(await subscription.defer(huge!, 0, { "pr-failures": "1" })).toEqual({ status: "done" });
    await sink.atLeast(3);
    const again = sink.delivered[2]!;
    expect(again.message.headers["pr-failures"]).toBe("1");
    expect(Buffer.from(again.message.body!).toString()).toBe("body");
    expect(await subscription.deadLetter(again, { "pr-reason": "odd" })).toEqual({ status: "done" });

    const [[, fields]] = (await client.xrange(`{${topic}}--g--dead`, "-", "+")) as [[string, string[]]];
    expect(fields).toContain("body");
    expect(fields).toContain("huge");
    expect(fields[fields.indexOf("pr-reason") + 1]).toBe("odd");
  });

  test("an entry that cannot be decoded is dead-lettered under an id of its place, and the next is handled", async () => {
    const topic = defineTopic<{ n: number }>(unique("malformed"));
    const { bus } = openBus();
    const client = rawClient();
    const handled: number[] = [];
    await client.xadd(`{${topic.name}}`, "7-1", "data", "{ broken", "tenant", "acme");
    await client.xadd(`{${topic.name}}`, "7-2", "nothing", "known");
    await bus.consume(topic, { group: "g" }, ({ n }) => void handled.push(n));
    await client.xadd(`{${topic.name}}`, "8-1", "data", '{"n":1}');

    await eventually(() => expect(handled).toEqual([1]));
    const letters = await eventually(async () => {
      const found = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
      expect(found.length).toBeGreaterThanOrEqual(1);
      return found;
    });
    const broken = letters.find(({ message }) => message.id === `${topic.name}:7-1`);
    expect(broken?.reason).toBe("invalid");
    expect(Buffer.from(broken?.body ?? []).toString()).toBe("{ broken");
    expect({ ...broken?.message.headers }).toEqual({ tenant: "acme" });
  });

  test("bytes that are no text stay what they are", async () => {
    const topic = unique("binary");
    const { adapter } = await openAdapter();
    const sink = collect();
    const body = Buffer.from([0, 255, 254, 13, 10, 0, 128]);
    const subscription = await subscribe(adapter, topic, sink);

    await adapter.publish([outgoing(topic, message("", { body }))]);
    const [first] = await sink.atLeast(1);
    await subscription.defer(first!, 0, { "pr-failures": "1" });
    const [, second] = await sink.atLeast(2);
    await subscription.deadLetter(second!, {});
    const cursor = await adapter.openDeadLetters({
      topic: { name: topic, partitions: 1, keyed: false },
      group: "g",
    });
    const [letter] = await cursor.read(10);

    for (const { message: wire } of [first!, second!, letter!]) expect([...wire.body!]).toEqual([...body]);
  });
}
