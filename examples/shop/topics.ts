/** The contracts between the parts of the shop. */
import { defineTopic } from "postrider";
import { z } from "zod";

const order = z.object({
  orderId: z.string().min(1),
  customer: z.string().min(1),
  total: z.number().int().positive(),
  /** What goes wrong with this order, so that there is something to see. */
  trouble: z.enum(["billing-once", "billing-thrice", "billing-always", "shipping-once"]).optional(),
});

export type Order = z.infer<typeof order>;

export const OrderPlaced = defineTopic("order.placed", { schema: order, key: ({ customer }) => customer });

export const InvoiceCreated = defineTopic("invoice.created", {
  schema: z.object({ orderId: z.string(), amount: z.number() }),
});
