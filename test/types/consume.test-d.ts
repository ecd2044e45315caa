import type { DatabaseSync } from "node:sqlite";
import {
  type Bus,
  type Consumer,
  type HandlerContext,
  type Middleware,
  type Outcome,
  createBus,
  defineTopic,
  discard,
  retryAfter,
} from "postrider";
import { memory } from "postrider/memory";
import { sqliteStore } from "postrider/sqlite";
import { describe, expectTypeOf, it } from "vitest";
import { z } from "zod";

declare const bus: Bus;

interface Order {
  readonly orderId: string;
}
const Plain = defineTopic<Order>("plain");
const Keyed = defineTopic<Order>("keyed", { key: ({ orderId }) => orderId });
const Parsed = defineTopic("parsed", { schema: z.object({ n: z.string().transform(Number) }) });

describe("a handler", () => {
  it("is given what the schema gives", () => {
    void bus.consume(Parsed, { group: "g" }, (payload, { message }) => {
      expectTypeOf(payload).toEqualTypeOf<{ n: number }>();
      expectTypeOf(message.payload).toEqualTypeOf<{ n: number }>();
    });
  });

  it("may return anything, and directives are known", () => {
    expectTypeOf(bus.consume(Plain, { group: "g" }, () => undefined)).resolves.toEqualTypeOf<Consumer>();
    void bus.consume(Plain, { group: "g" }, async () => retryAfter("5m"));
    void bus.consume(Plain, { group: "g" }, ({ orderId }) => (orderId === "" ? discard("empty") : 7));
  });

  it("does not compile when it wants another payload", () => {
    // @ts-expect-error there is no total
    void bus.consume(Plain, { group: "g" }, ({ total }) => total);
    // @ts-expect-error a string is not an order
    void bus.consume(Plain, { group: "g" }, (text: string) => text);
  });

  it("does not compile when it changes its message", () => {
    void bus.consume(Plain, { group: "g" }, (_order, { message }) => {
      // @ts-expect-error headers are read only
      message.headers["tenant"] = "other";
      // @ts-expect-error so is the id
      message.id = "2";
    });
  });
});

describe("ctx.tx", () => {
  const store = sqliteStore({ path: "app.db" });
  const withStore = createBus({ adapter: memory(), store });

  it("is the store's transaction in a consumer once in a transaction, and nothing otherwise", () => {
    void withStore.consume(Plain, { group: "g", once: "transaction" }, (_order, { tx }) => {
      expectTypeOf(tx).toEqualTypeOf<DatabaseSync>();
    });
    void withStore.consume(Plain, { group: "g", once: "lease" }, (_order, { tx }) => {
      expectTypeOf(tx).toEqualTypeOf<undefined>();
    });
    void withStore.consume(Plain, { group: "g" }, (_order, { tx }) => {
      expectTypeOf(tx).toEqualTypeOf<undefined>();
    });
    void withStore.consume(Plain, { group: "g", once: false }, (_order, { tx }) => {
      expectTypeOf(tx).toEqualTypeOf<undefined>();
    });
  });

  it("is what bus.transaction gives, and bus.outbox takes", () => {
    void withStore.transaction(async (tx) => expectTypeOf(tx).toEqualTypeOf<DatabaseSync>());
    expectTypeOf(withStore.transaction(async () => 7)).resolves.toEqualTypeOf<number>();
    expectTypeOf<Parameters<(typeof withStore)["outbox"]>[0]>().toEqualTypeOf<DatabaseSync>();
    // @ts-expect-error not a handle of this store
    withStore.outbox("tx");
  });
});

describe("the options of consume", () => {
  it("have order by key only for a topic with a key", () => {
    void bus.consume(Keyed, { group: "g", order: "key" }, () => undefined);
    void bus.consume(Keyed, { group: "g", order: "none" }, () => undefined);
    void bus.consume(Plain, { group: "g", order: "none" }, () => undefined);
    // @ts-expect-error the topic has no key
    void bus.consume(Plain, { group: "g", order: "key" }, () => undefined);
    // @ts-expect-error nor has one with a schema only
    void bus.consume(Parsed, { group: "g", order: "key" }, () => undefined);
  });

  it("let a message block its key only where there is an order", () => {
    void bus.consume(Keyed, { group: "g", order: "key", onExhausted: "block" }, () => undefined);
    void bus.consume(Keyed, { group: "g", order: "key", onExhausted: "deadLetter" }, () => undefined);
    void bus.consume(Plain, { group: "g", onExhausted: "deadLetter" }, () => undefined);
    // @ts-expect-error without order
    void bus.consume(Keyed, { group: "g", onExhausted: "block" }, () => undefined);
    // @ts-expect-error without order, said so
    void bus.consume(Keyed, { group: "g", order: "none", onExhausted: "block" }, () => undefined);
    // @ts-expect-error the topic has no key
    void bus.consume(Plain, { group: "g", order: "key", onExhausted: "block" }, () => undefined);
  });

  it("do not compile when they are misspelt, missing or of another kind", () => {
    // @ts-expect-error misspelt
    void bus.consume(Plain, { group: "g", prefech: 1 }, () => undefined);
    // @ts-expect-error no group
    void bus.consume(Plain, {}, () => undefined);
    // @ts-expect-error no such mode
    void bus.consume(Plain, { group: "g", once: true }, () => undefined);
    // @ts-expect-error not a duration
    void bus.consume(Plain, { group: "g", timeout: "30 seconds" }, () => undefined);
    // @ts-expect-error misspelt inside
    void bus.consume(Plain, { group: "g", retry: { maxAttemps: 3 } }, () => undefined);
    // @ts-expect-error a backoff is a function
    void bus.consume(Plain, { group: "g", retry: { backoff: "1s" } }, () => undefined);
  });
});

describe("middleware", () => {
  it("knows the payload of its consumer, and must give an outcome", () => {
    const typed: Middleware<HandlerContext<Order>> = async ({ message }, next) => {
      expectTypeOf(message.payload).toEqualTypeOf<Order>();
      const outcome = await next();
      expectTypeOf(outcome).toEqualTypeOf<Outcome>();
      return outcome;
    };
    void bus.consume(Plain, { group: "g", use: [typed] }, () => undefined);
    bus.use(async (_context, next) => next());
    // @ts-expect-error forgets to return the outcome
    bus.use(async (_context, next) => {
      await next();
    });
    // @ts-expect-error not an outcome
    bus.use(async () => ({ kind: "nack" }));
  });
});

describe("dead letters", () => {
  it("have the payload of their topic, unless it cannot be read", async () => {
    const dlq = bus.deadLetters(Parsed, { group: "g" });
    for await (const letter of dlq.list({ where: ({ message }) => message.payload?.n === 1 })) {
      expectTypeOf(letter.message.payload).toEqualTypeOf<{ n: number } | undefined>();
    }
    // @ts-expect-error discarding asks which
    void dlq.discard();
    // @ts-expect-error misspelt
    void dlq.redrive({ limits: 1 });
  });
});
