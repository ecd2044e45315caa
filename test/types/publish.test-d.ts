import {
  type Bus,
  type PublishOptions,
  type Publisher,
  type Receipt,
  type StandardSchema,
  type Topic,
  createBus,
  defineTopic,
} from "postrider";
import { memory } from "postrider/memory";
import { describe, expectTypeOf, it } from "vitest";
import { z } from "zod";

declare const bus: Bus;

interface Order {
  readonly orderId: string;
  readonly total: number;
}
const OrderPlaced = defineTopic<Order>("order.placed");
const Parsed = defineTopic("parsed", {
  schema: z.object({ at: z.coerce.date(), n: z.string().transform(Number), note: z.string().default("") }),
  key: ({ n }) => n.toFixed(),
});
const order = { orderId: "1", total: 9 };

describe("publish", () => {
  it("takes the topic's payload and gives a receipt", () => {
    expectTypeOf(bus.publish(OrderPlaced, order)).resolves.toEqualTypeOf<Receipt>();
  });

  it("does not compile with another payload", () => {
    // @ts-expect-error a property is missing
    void bus.publish(OrderPlaced, { orderId: "1" });
    // @ts-expect-error nothing of it is there
    void bus.publish(OrderPlaced, {});
    // @ts-expect-error a property has another type
    void bus.publish(OrderPlaced, { orderId: 1, total: 9 });
    // @ts-expect-error a property is too much
    void bus.publish(OrderPlaced, { orderId: "1", total: 9, totl: 9 });
    // @ts-expect-error not an object
    void bus.publish(OrderPlaced, "1");
    // @ts-expect-error nothing
    void bus.publish(OrderPlaced, undefined);
    const wide: { readonly orderId?: string; readonly total?: number } = order;
    // @ts-expect-error a variable whose type is too wide
    void bus.publish(OrderPlaced, wide);
  });

  it("does not compile with a literal that is not one of the topic's", () => {
    const Tagged = defineTopic<{ readonly kind: "a" | "b" }>("tagged");
    void bus.publish(Tagged, { kind: "a" });
    // @ts-expect-error there is no "c"
    void bus.publish(Tagged, { kind: "c" });
    const text: string = "a";
    // @ts-expect-error any text is too much
    void bus.publish(Tagged, { kind: text });
  });

  it("takes what the schema takes, not what it gives", () => {
    void bus.publish(Parsed, { at: "2026-01-01", n: "7" });
    // @ts-expect-error the schema turns text into a number, the publisher gives text
    void bus.publish(Parsed, { at: "2026-01-01", n: 7 });
  });

  it("does not compile with an option there is not, or one of another kind", () => {
    // @ts-expect-error misspelt
    void bus.publish(OrderPlaced, order, { idempotncyKey: "1" });
    // @ts-expect-error no such level
    void bus.publish(OrderPlaced, order, { durability: "forever" });
    // @ts-expect-error headers are text
    void bus.publish(OrderPlaced, order, { headers: { n: 1 } });
    // @ts-expect-error not text
    void bus.publish(OrderPlaced, order, { key: 1 });
  });

  it("does not compile with a duration that is none", () => {
    void bus.publish(OrderPlaced, order, { delay: "10m", timeout: 500 });
    // @ts-expect-error no such unit
    void bus.publish(OrderPlaced, order, { delay: "10 parsecs" });
    // @ts-expect-error no number
    void bus.publish(OrderPlaced, order, { timeout: "s" });
    // @ts-expect-error no unit
    createBus({ drainTimeout: "20" });
  });
});

describe("publishAll", () => {
  it("takes many of the topic's payloads", () => {
    void bus.publishAll(OrderPlaced, [order, order], { durability: "accepted" });
    // @ts-expect-error one of them is none
    void bus.publishAll(OrderPlaced, [order, {}]);
    // @ts-expect-error not a list
    void bus.publishAll(OrderPlaced, order);
  });

  it("does not compile with what makes one message of many", () => {
    // @ts-expect-error one id for all
    void bus.publishAll(OrderPlaced, [order], { id: "1" });
    // @ts-expect-error one key for all
    void bus.publishAll(OrderPlaced, [order], { key: "1" });
    // @ts-expect-error one idempotency key for all
    void bus.publishAll(OrderPlaced, [order], { idempotencyKey: "1" });
  });

  it("tells results apart by their status", async () => {
    for (const result of await bus.publishAll(OrderPlaced, [order])) {
      if (result.status === "accepted") expectTypeOf(result.id).toEqualTypeOf<string>();
      else expectTypeOf(result.error).toMatchTypeOf<Error>();
      // @ts-expect-error only a failure has an error
      if (result.status === "accepted") void result.error;
    }
  });
});

describe("a Publisher", () => {
  const ship = (publisher: Publisher, options?: PublishOptions): Promise<Receipt> =>
    publisher.publish(OrderPlaced, order, options);

  it("is a bus, an outbox, and a handler's context", () => {
    void ship(bus);
    void ship(bus.outbox({}));
    void bus.consume(OrderPlaced, { group: "g" }, (_order, context) => ship(context));
    void bus.transaction((_tx, outbox) => ship(outbox));
  });
});

describe("defineTopic", () => {
  it("knows whether there is a key", () => {
    expectTypeOf(OrderPlaced).toEqualTypeOf<Topic<Order, Order, false>>();
    expectTypeOf(defineTopic<Order>("t", { key: ({ orderId }) => orderId })).toEqualTypeOf<
      Topic<Order, Order, true>
    >();
    expectTypeOf(Parsed).toEqualTypeOf<
      Topic<
        { at: unknown; n: string; note?: string | undefined },
        { at: Date; n: number; note: string },
        true
      >
    >();
  });

  it("takes a schema of any library that implements Standard Schema", () => {
    const schema = {} as StandardSchema<{ a: string }, { a: number }>;
    expectTypeOf(defineTopic("t", { schema })).toEqualTypeOf<Topic<{ a: string }, { a: number }, false>>();
  });

  it("does not compile with what is no topic", () => {
    // @ts-expect-error misspelt
    defineTopic("t", { partition: 8 });
    // @ts-expect-error no such codec
    defineTopic("t", { codec: "xml" });
    // @ts-expect-error a key is text
    defineTopic<Order>("t", { key: ({ total }) => total });
    // @ts-expect-error a name is not a topic
    void bus.publish("order.placed", order);
  });
});

describe("createBus", () => {
  it("does not compile with an option there is not", () => {
    // @ts-expect-error misspelt
    createBus({ adaptor: "memory:" });
    // @ts-expect-error an adapter is not enough of a store
    createBus({ adapter: memory(), store: memory() });
  });
});
