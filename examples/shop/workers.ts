/** Those who work on orders: billing (in order per customer), shipping (in any order), and mailing, which hears of invoices. */
import { type Bus, type Consumer, exponential } from "postrider";
import type { ShopDatabase } from "./database.ts";
import { InvoiceCreated, OrderPlaced } from "./topics.ts";

/** What is broken in billing until somebody mends it. */
export interface Billing {
  fixed: boolean;
}

export async function startWorkers(
  bus: Bus,
  database: ShopDatabase,
  billing: Billing,
): Promise<readonly Consumer[]> {
  const billingConsumer = await bus.consume(
    OrderPlaced,
    {
      group: "billing",
      order: "key",
      concurrency: 16,
      once: "transaction",
      retry: { maxAttempts: 5, backoff: exponential({ min: "20ms", max: "200ms" }) },
    },
    async (order, ctx) => {
      const failures = {
        "billing-once": 1,
        "billing-thrice": 3,
        "billing-always": Infinity,
        "shipping-once": 0,
      };
      const fails = order.trouble === undefined ? 0 : failures[order.trouble];
      if (ctx.attempt <= fails && !billing.fixed) {
        throw new Error(fails === Infinity ? "tax table has no entry for this order" : "tax service is busy");
      }
      await database.execute(
        ctx.tx,
        "insert into invoices (order_id, amount) values (?, ?)",
        order.orderId,
        order.total,
      );
      await ctx.publish(InvoiceCreated, { orderId: order.orderId, amount: order.total });
    },
  );

  const shippingConsumer = await bus.consume(
    OrderPlaced,
    {
      group: "shipping",
      concurrency: 16,
      once: "transaction",
      // Longer than a second: the broker holds these, not this process.
      retry: { maxAttempts: 4, backoff: exponential({ min: "1s", max: "2s", jitter: "none" }) },
    },
    async (order, ctx) => {
      if (order.trouble === "shipping-once" && ctx.attempt === 1) throw new Error("no courier at the door");
      await database.execute(ctx.tx, "insert into shipments (order_id) values (?)", order.orderId);
    },
  );

  const mailingConsumer = await bus.consume(
    InvoiceCreated,
    { group: "mailing", concurrency: 16, once: "transaction" },
    async (invoice, ctx) => {
      await database.execute(ctx.tx, "insert into mails (order_id) values (?)", invoice.orderId);
    },
  );

  return [billingConsumer, shippingConsumer, mailingConsumer];
}
