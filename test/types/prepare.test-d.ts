import { type Prepared, createBus, defineTopic } from "postrider";
import { describe, expectTypeOf, it } from "vitest";

const bus = createBus();
const OrderPlaced = defineTopic<{ orderId: string }>("order.placed");

describe("bus.prepare", () => {
  it("takes the topic's payload, and gives it to the topic's check", () => {
    expectTypeOf(bus.prepare(OrderPlaced, { orderId: "1" })).toEqualTypeOf<Promise<Prepared>>();
    // @ts-expect-error -- a payload of another topic
    void bus.prepare(OrderPlaced, { customerId: "1" });
    bus.checkBack(OrderPlaced, ({ payload }) => {
      expectTypeOf(payload).toEqualTypeOf<{ orderId: string }>();
      return "commit";
    });
    // @ts-expect-error -- not one of the decisions
    bus.checkBack(OrderPlaced, () => "done");
  });
});
