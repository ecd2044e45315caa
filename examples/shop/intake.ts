/** Takes orders in: one JSON line each, order and message in one transaction. */
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import type { Bus } from "postrider";
import type { ShopDatabase } from "./database.ts";
import { type Order, OrderPlaced } from "./topics.ts";

export interface IntakeReport {
  lines: number;
  /** Orders that were not there yet. */
  placed: number;
  duplicates: number;
  readonly malformed: { readonly line: number; readonly why: string }[];
}

/** `-` reads standard input. */
export async function takeOrders(
  source: string,
  bus: Bus,
  database: ShopDatabase,
  onProgress: (report: IntakeReport) => void,
): Promise<IntakeReport> {
  const report: IntakeReport = { lines: 0, placed: 0, duplicates: 0, malformed: [] };
  const input = source === "-" ? process.stdin : createReadStream(source);
  // An error of the stream (no such file) would otherwise be nobody's.
  const failed = new Promise<never>((_, reject) => input.once("error", reject));
  const lines = createInterface({ input, crlfDelay: Infinity })[Symbol.asyncIterator]();
  for (;;) {
    const next = await Promise.race([lines.next(), failed]);
    if (next.done === true) return report;
    report.lines += 1;
    const parsed = parseOrder(next.value);
    if ("why" in parsed) report.malformed.push({ line: report.lines, why: parsed.why });
    else if (await place(parsed.order, bus, database)) report.placed += 1;
    else report.duplicates += 1;
    onProgress(report);
  }
}

/** `false`: it was placed before. */
function place(order: Order, bus: Bus, database: ShopDatabase): Promise<boolean> {
  return bus.transaction(async (tx, outbox) => {
    const sql = "insert into orders (order_id, customer, total) values (?, ?, ?) on conflict do nothing";
    const inserted = await database.execute(tx, sql, order.orderId, order.customer, order.total);
    if (inserted === 0) return false;
    await outbox.publish(OrderPlaced, order, { idempotencyKey: order.orderId });
    return true;
  });
}

function parseOrder(line: string): { readonly order: Order } | { readonly why: string } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    return { why: `not JSON: ${(error as Error).message}` };
  }
  const result = OrderPlaced.schema?.["~standard"].validate(value);
  if (result === undefined || result instanceof Promise) throw new Error("the schema validates at once");
  if (result.issues === undefined) return { order: result.value as Order };
  return {
    why: result.issues
      .map(({ message, path }) => `${path?.map(String).join(".") || "order"}: ${message}`)
      .join("; "),
  };
}
