/** E: adding to the outbox is part of the caller's transaction, and nothing is changed on the way. */
import assert from "node:assert/strict";
import { headerMap } from "../../headers.ts";
import type { OutboxEntry } from "../../store.ts";
import { type StoreScenario, needsConcurrency, needsSessions, storeScenario } from "./scenario.ts";
import { entry, idOf, watch } from "./world.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Everything a row can hold, and everything that could be mistaken for something else on the way. */
const oddities: readonly OutboxEntry[] = [
  ...[
    "",
    "\"'\\ $1 ? :a @b %s -- /*",
    "é 漢 🚀 \u2028 \ufeff",
    '"\\u0000"',
    "\t\r\n\u0001",
    "x".repeat(1_048_576),
  ].map((text, i) => entry(`text-${i}`, { body: bytes(text) })),
  ...[Uint8Array.from({ length: 256 }, (_, i) => i), Uint8Array.of(0), Uint8Array.of(0xff, 0xfe), null].map(
    (body, i) => entry(`bytes-${i}`, { body }),
  ),
  {
    destination: { topic: { name: "T.1-_", partitions: 64, keyed: true }, group: "g", dead: true },
    durability: "none",
    message: {
      attributes: headerMap({
        id: "foreign",
        subject: "\u0000 \ud800 🚀",
        constructor: "x",
        "": "empty name",
      }),
      headers: headerMap({ toString: "y", tenant: "'); drop table outbox; --", nul: "a\u0000b" }),
      key: "\u0000 \ud800 \u001f 漢",
      body: bytes("{}"),
    },
  },
  { ...entry("keyed", { key: "k" }), durability: "accepted" },
];

/** Bytes as text, so that a view of a larger buffer compares equal; destinations without what is not said. */
const plain = ({ destination, message, durability }: OutboxEntry): unknown => ({
  topic: { ...destination.topic },
  group: destination.group,
  dead: destination.dead === true,
  durability,
  attributes: { ...message.attributes },
  headers: { ...message.headers },
  key: message.key,
  body: message.body === null ? null : Buffer.from(message.body).toString("base64"),
});

export const append: readonly StoreScenario[] = [
  storeScenario("E1", "what was added comes back as it was, alone or with others", async (world) => {
    const { outbox } = await world.store();
    const store = await world.store();

    for (const one of oddities) await world.commit(store, one);
    await world.commit(store, ...oddities);
    const { rows } = await outbox.fetch({ above: 0n, parkedTopics: [], limit: 5_000 });

    assert.deepEqual(rows.map(plain), [...oddities, ...oddities].map(plain));
    for (const { message } of rows) {
      assert.deepEqual(inherited(message.headers), []);
      assert.deepEqual(inherited(message.attributes), []);
    }
  }),

  storeScenario(
    "E2",
    "what was added is there with the commit, and never after a rollback",
    async (world) => {
      const store = await world.store();

      const rolledBack = await world.database.begin();
      await store.outbox.append(rolledBack.handle, [entry("ghost")]);
      await rolledBack.rollback();
      const committed = await world.database.begin();
      await world.database.addEffect(committed.handle, "effect");
      await store.outbox.append(committed.handle, [entry("message")]);
      const before = await world.rows(store.outbox);
      await committed.commit();

      assert.deepEqual(before, []);
      assert.deepEqual(await world.rows(store.outbox), ["message"]);
      assert.deepEqual(await world.database.effects(), ["effect"]);
    },
    needsSessions,
  ),

  storeScenario(
    "E3",
    "anything but an open transaction is refused, and nothing is written",
    async (world) => {
      const store = await world.store();
      const committed = await world.database.begin();
      await store.outbox.append(committed.handle, [entry("first")]);
      await committed.commit();
      const rolledBack = await world.database.begin();
      await rolledBack.rollback();
      let late: unknown;
      await store.transaction(async (tx) => void (late = tx));

      const handles = [
        committed.handle,
        rolledBack.handle,
        late,
        undefined,
        null,
        "tx",
        1,
        {},
        [],
        () => undefined,
      ];
      for (const handle of handles) {
        await assert.rejects(async () => store.outbox.append(handle, [entry("no")]), {
          code: "ERR_TX",
          retryable: false,
        });
      }

      assert.deepEqual(await world.rows(store.outbox), ["first"]);
    },
  ),

  storeScenario("E4", "what one transaction adds leaves in the order it was added", async (world) => {
    const store = await world.store();
    const transaction = await world.database.begin();
    const add = (...ids: readonly string[]): Promise<void> =>
      store.outbox.append(
        transaction.handle,
        ids.map((id, i) => entry(id, i % 2 === 0 ? { key: `key ${i % 7}` } : {})),
      );

    await add("a");
    await add("b", "c", "d");
    // As handlers do: all at once.
    await Promise.all([add("e"), add("f", "g"), add("h"), add("i")]);
    await add(...Array.from({ length: 1_000 }, (_, i) => `n${i}`));
    await transaction.commit();

    assert.deepEqual(
      await world.rows(store.outbox),
      ["a", "b", "c", "d", "e", "f", "g", "h", "i"].concat(Array.from({ length: 1_000 }, (_, i) => `n${i}`)),
    );
  }),

  storeScenario("E5", "very many and very large entries are added in one go", async (world) => {
    const store = await world.store();
    const large = (id: string): OutboxEntry => entry(id, { body: new Uint8Array(4 * 1_048_576).fill(0x22) });
    const ids = Array.from({ length: 12_000 }, (_, i) => `n${i}`);

    await world.commit(store, ...ids.map((id, i) => entry(id, { key: `key ${i % 100}` })));
    await world.commit(store, ...["x", "y", "z"].map(large));
    const seen: string[] = [];
    for (let above = 0n; ;) {
      const { rows } = await store.outbox.fetch({ above, parkedTopics: [], limit: 5_000 });
      seen.push(...rows.map(idOf));
      const last = rows.at(-1);
      if (last === undefined) break;
      above = last.seq;
    }

    assert.deepEqual(seen, [...ids, "x", "y", "z"]);
  }),

  storeScenario(
    "E6",
    "transactions that send for one key take turns, so that their order is that of their commits",
    async (world) => {
      const store = await world.store();
      const [first, second, other] = await Promise.all([1, 2, 3].map(() => world.database.begin()));
      assert.ok(first !== undefined && second !== undefined && other !== undefined);

      await store.outbox.append(first.handle, [entry("first", { key: "k" })]);
      const waiting = store.outbox.append(second.handle, [
        entry("second", { key: "k" }),
        entry("more", { key: "l" }),
      ]);
      const watched = watch(waiting);
      // Neither another key nor the same key of another topic waits. By then the second has long been asked for.
      await store.outbox.append(other.handle, [
        entry("other", { key: "o" }),
        entry("topic", { topic: "u", key: "k" }),
      ]);
      await other.commit();
      await store.outbox.append(first.handle, [entry("third", { key: "k" })]);
      assert.equal(watched.settled, false, "the second transaction did not wait for the first");
      await first.commit();
      await waiting;
      await second.commit();

      const order = await world.rows(store.outbox);
      assert.deepEqual(
        order.filter((id) => ["first", "second", "third"].includes(id)),
        ["first", "third", "second"],
      );
    },
    needsConcurrency,
  ),

  storeScenario(
    "E7",
    "transactions that send for the same keys in different order do not deadlock",
    async (world) => {
      const store = await world.store();
      const keys = Array.from({ length: 20 }, (_, i) => `key ${i}`);
      const rotated = (n: number): string[] => [...keys.slice(n), ...keys.slice(0, n)];

      await Promise.all(
        Array.from({ length: 40 }, (_, n) =>
          world.commit(store, ...rotated(n % 20).map((key, i) => entry(`${n}-${i}`, { key }))),
        ),
      );

      assert.equal((await world.rows(store.outbox)).length, 800);
    },
    needsConcurrency,
  ),
];

/** The names an object has from others: a header called `constructor` must be that header, or nothing. */
function inherited(object: object): readonly PropertyKey[] {
  const prototype = Object.getPrototypeOf(object) as object | null;
  return prototype === null ? [] : [...Reflect.ownKeys(prototype), ...inherited(prototype)];
}
