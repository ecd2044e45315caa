import { defineTopic, deadLetter } from "postrider";
import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import {
  collect,
  message,
  openAdapter,
  openBus,
  outgoing,
  rawClient,
  subscribe,
  textOf,
  topicOf,
  unique,
} from "./bench.ts";

export function deadLetters(): void {
  test("letters are read in pages, up to what was there when reading began", async () => {
    const topic = unique("pages");
    const { adapter } = await openAdapter();
    const spec = { topic: topicOf(topic), group: "g" };
    const destination = { ...spec, dead: true };
    const bury = async (text: string): Promise<void> => {
      const [result] = await adapter.publish([outgoing(topic, message(text), { destination })]);
      expect(result?.status).toBe("accepted");
    };
    for (let i = 0; i < 7; i++) await bury(String(i));

    const cursor = await adapter.openDeadLetters(spec);
    await bury("late");
    const texts: string[] = [];
    const removed: string[] = [];
    for (let page = await cursor.read(3); page.length > 0; page = await cursor.read(3)) {
      expect(page.length).toBeLessThanOrEqual(3);
      texts.push(...page.map(textOf));
      await cursor.remove(page.slice(0, 1));
      removed.push(textOf(page[0]!));
    }

    expect(texts).toEqual(["0", "1", "2", "3", "4", "5", "6"]);
    const rest = await adapter.openDeadLetters(spec);
    const left: string[] = [];
    for (let page = await rest.read(100); page.length > 0; page = await rest.read(100))
      left.push(...page.map(textOf));
    expect(left).toEqual([...texts, "late"].filter((text) => !removed.includes(text)));
  });

  test("one letter per message: neither a second delivery nor a repeated publish adds another", async () => {
    const topic = unique("once");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const sink = collect();
    const subscription = await subscribe(adapter, topic, sink);
    const wire = message("a", { attributes: { id: "same" } });
    const direct = { destination: { topic: topicOf(topic), group: "g" } };
    await adapter.publish([outgoing(topic, wire), outgoing(topic, wire, direct)]);
    await sink.atLeast(2);

    for (const delivery of sink.delivered)
      expect(await subscription.deadLetter(delivery, {})).toEqual({ status: "done" });
    const [again] = await adapter.publish([
      outgoing(topic, wire, { destination: { topic: topicOf(topic), group: "g", dead: true } }),
    ]);

    expect(again?.status).toBe("accepted");
    expect(await client.xlen(`{${topic}}--g--dead`)).toBe(1);
    expect(await client.hlen(`{${topic}}--g--dead-ids`)).toBe(1);
  });

  test("a letter that was removed leaves no trace, and its message may become one again", async () => {
    const topic = unique("again");
    const { adapter } = await openAdapter();
    const client = rawClient();
    const spec = { topic: topicOf(topic), group: "g" };
    const letter = outgoing(topic, message("a", { attributes: { id: "same" } }), {
      destination: { ...spec, dead: true },
    });

    for (let round = 0; round < 2; round++) {
      await adapter.publish([letter]);
      const cursor = await adapter.openDeadLetters(spec);
      const page = await cursor.read(10);
      expect(page).toHaveLength(1);
      await cursor.remove(page);
      expect(await client.hlen(`{${topic}}--g--dead-ids`)).toBe(0);
    }
    // Somebody who empties the stream by hand does not know of the index.
    await adapter.publish([letter]);
    await client.del(`{${topic}}--g--dead`);
    await adapter.publish([letter]);

    expect(await client.xlen(`{${topic}}--g--dead`)).toBe(1);
  });

  test("redriving again what was redriven but not removed does not handle it twice", async () => {
    const topic = defineTopic<string>(unique("redrive"));
    const { bus } = openBus();
    const { adapter } = await openAdapter();
    const client = rawClient();
    let fixed = false;
    const handled: string[] = [];
    await bus.consume(topic, { group: "g" }, (payload) => {
      if (!fixed) return deadLetter("not yet");
      handled.push(payload);
      return undefined;
    });
    await bus.publish(topic, "a", { id: "a" });
    const dlq = bus.deadLetters(topic, { group: "g" });
    await eventually(async () => expect(await Array.fromAsync(dlq.list())).toHaveLength(1));
    const letters = (await client.xrange(`{${topic.name}}--g--dead`, "-", "+")) as [string, string[]][];
    fixed = true;
    await dlq.redrive();
    await eventually(() => expect(handled).toEqual(["a"]));

    // As if the process had been killed between the two steps.
    const [[id, fields]] = letters as [[string, string[]]];
    await client.xadd(`{${topic.name}}--g--dead`, "*", ...fields);
    expect(await dlq.redrive()).toEqual({ matched: 1, redriven: 1 });
    await bus.publish(topic, "fence");
    await eventually(() => expect(handled).toContain("fence"));

    expect(handled).toEqual(["a", "fence"]);
    expect(await Array.fromAsync(dlq.list())).toEqual([]);
    void [id, adapter];
  });

  test("large letters are not read all at once", async () => {
    const topic = unique("large");
    const { adapter } = await openAdapter();
    const spec = { topic: topicOf(topic), group: "g" };
    const body = Buffer.alloc(3_000_000, 1);
    for (let i = 0; i < 6; i++)
      await adapter.publish([
        outgoing(topic, message("", { body }), { destination: { ...spec, dead: true } }),
      ]);

    const cursor = await adapter.openDeadLetters(spec);
    const sizes: number[] = [];
    for (let page = await cursor.read(100); page.length > 0; page = await cursor.read(100))
      sizes.push(page.length);

    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(6);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(3);
  });
}
