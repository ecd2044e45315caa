import { defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import { expect, test } from "vitest";
import { openAdapter, openBus, rawChannel, rawConfirmChannel, textOf, unique } from "./bench.ts";

async function groupOf(name: string): Promise<{
  readonly adapter: Awaited<ReturnType<typeof openAdapter>>["adapter"];
  readonly spec: {
    readonly topic: { name: string; partitions: number; keyed: boolean };
    readonly group: "g";
  };
  readonly dead: string;
}> {
  const { adapter } = await openAdapter();
  const spec = { topic: { name: unique(name), partitions: 1, keyed: false }, group: "g" } as const;
  await adapter.declare({ topics: [], groups: [spec] });
  return { adapter, spec, dead: `${spec.topic.name}--g--dead` };
}

/** Puts letters down as anybody could. */
async function bury(dead: string, ids: readonly string[]): Promise<void> {
  const raw = await rawConfirmChannel();
  for (const messageId of ids)
    raw.sendToQueue(dead, Buffer.from(messageId), { persistent: true, messageId, mandatory: true });
  await raw.waitForConfirms();
}

const ids = (count: number): string[] => Array.from({ length: count }, (_, i) => `letter-${i}`);

export function deadLetters(): void {
  test("letters are as they were after they were looked at thirty times, in their order", async () => {
    const { adapter, spec, dead } = await groupOf("browse");
    await bury(dead, ids(50));

    for (let time = 0; time < 30; time++) {
      const cursor = await adapter.openDeadLetters(spec);
      const read = await cursor.read(20);
      expect(read.map(textOf)).toEqual(ids(20));
      await cursor.close();
    }

    const cursor = await adapter.openDeadLetters(spec);
    expect((await cursor.read(1_000)).map(textOf)).toEqual(ids(50));
    expect(await cursor.read(1_000)).toEqual([]);
    await cursor.close();
  }, 60_000);

  test("more letters than fit into one window are read to the end, and put back in order", async () => {
    const { adapter, spec, dead } = await groupOf("many");
    await bury(dead, ids(1_100));

    for (let time = 0; time < 3; time++) {
      const cursor = await adapter.openDeadLetters(spec);
      const read: string[] = [];
      for (let page = await cursor.read(100); page.length > 0; page = await cursor.read(100))
        read.push(...page.map(textOf));
      await cursor.close();
      expect(read).toEqual(ids(1_100));
    }
  }, 60_000);

  test("copies of one letter are one, and are removed together; the rest keeps its order", async () => {
    const { adapter, spec, dead } = await groupOf("copies");
    await bury(dead, ["a", "b", "a", "c", "b", "a"]);

    const first = await adapter.openDeadLetters(spec);
    const read = await first.read(10);
    expect(read.map(textOf)).toEqual(["a", "b", "c"]);
    await first.remove([read[0]!]);
    await first.close();
    const second = await adapter.openDeadLetters(spec);
    const left = await second.read(10);
    await second.remove(left);
    await second.close();

    expect(left.map(textOf)).toEqual(["b", "c"]);
    const raw = await rawChannel();
    expect((await raw.checkQueue(dead)).messageCount).toBe(0);
  });

  test("a copy that is read after its letter was removed goes too", async () => {
    const { adapter, spec, dead } = await groupOf("late-copy");
    await bury(dead, ["a", "b", "a"]);

    const cursor = await adapter.openDeadLetters(spec);
    const [a] = await cursor.read(1);
    await cursor.remove([a!]);
    expect((await cursor.read(10)).map(textOf)).toEqual(["b"]);
    await cursor.close();

    const raw = await rawChannel();
    expect((await raw.checkQueue(dead)).messageCount).toBe(1);
  });

  test("reading a thousand letters and removing all leaves none, though removing makes room for more", async () => {
    const { adapter, spec, dead } = await groupOf("drain");
    await bury(dead, ids(1_000));

    const cursor = await adapter.openDeadLetters(spec);
    const read: string[] = [];
    for (let page = await cursor.read(300); page.length > 0; page = await cursor.read(300)) {
      read.push(...page.map(textOf));
      await cursor.remove(page);
    }
    await cursor.close();

    expect(read).toEqual(ids(1_000));
    const raw = await rawChannel();
    expect((await raw.checkQueue(dead)).messageCount).toBe(0);
  }, 60_000);

  test("removing is not confirmed when the connection is gone", async () => {
    const { adapter, spec, dead } = await groupOf("unsure");
    await bury(dead, ["a"]);
    const cursor = await adapter.openDeadLetters(spec);
    const letters = await cursor.read(1);
    await adapter.close();

    await expect(cursor.remove(letters)).rejects.toMatchObject({ retryable: expect.any(Boolean) as boolean });
    await expect(cursor.read(1)).resolves.toEqual([]);
    await cursor.close();
  });

  test("a letter that the server moved by itself is shown as a crash loop, and can be redriven", async () => {
    const { bus } = openBus();
    const topic = defineTopic<{ n: number }>(unique("crash"));
    await bus.declare({ groups: { g: [topic] } });
    const raw = await rawConfirmChannel();
    // What the queue's own limit does after ten thousand hand-overs, a rejection does at once.
    raw.publish(topic.name, "", Buffer.from('{"n":1}'), { messageId: "m-1" });
    await raw.waitForConfirms();
    const message = await raw.get(`${topic.name}--g`);
    if (message === false) throw new Error("nothing there");
    raw.nack(message, false, false);

    const [letter] = await eventually(async () => {
      const found = await Array.fromAsync(bus.deadLetters(topic, { group: "g" }).list());
      expect(found).toHaveLength(1);
      return found;
    });
    expect(letter).toMatchObject({
      reason: "rejected",
      group: "g",
      message: { id: "m-1", payload: { n: 1 } },
    });
    expect(letter?.deadLetteredAt).toBeInstanceOf(Date);
    const handled: unknown[] = [];
    await bus.consume(topic, { group: "g" }, (payload, { attempt }) => void handled.push([payload, attempt]));
    await bus.deadLetters(topic, { group: "g" }).redrive();
    await eventually(() => expect(handled).toEqual([[{ n: 1 }, 1]]));
  });
}
