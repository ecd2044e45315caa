/** What the run came to, computed from the database. */
import type { DeadLetter } from "postrider";
import type { ShopDatabase } from "./database.ts";
import type { IntakeReport } from "./intake.ts";

export interface Counts {
  readonly orders: number;
  readonly invoices: number;
  readonly shipments: number;
  readonly mails: number;
}

export interface Check {
  /** Orders without invoice, shipment or mail. */
  readonly lost: number;
  /** Invoices, shipments and mails beyond the first of an order. */
  readonly twice: number;
}

const effects = ["invoices", "shipments", "mails"] as const;

export async function countAll(database: ShopDatabase): Promise<Counts> {
  const count = async (table: string): Promise<number> =>
    Number((await database.query(`select count(*) as n from ${table}`))[0]?.["n"] ?? 0);
  const [orders, invoices, shipments, mails] = await Promise.all(["orders", ...effects].map(count));
  return { orders: orders ?? 0, invoices: invoices ?? 0, shipments: shipments ?? 0, mails: mails ?? 0 };
}

export async function checkAll(database: ShopDatabase): Promise<Check> {
  let lost = 0;
  let twice = 0;
  for (const table of effects) {
    const missing = `select count(*) as n from orders where order_id not in (select order_id from ${table})`;
    const surplus = `select count(*) - count(distinct order_id) as n from ${table}`;
    lost += Number((await database.query(missing))[0]?.["n"]);
    twice += Number((await database.query(surplus))[0]?.["n"]);
  }
  return { lost, twice };
}

export function groupByError(
  letters: readonly DeadLetter[],
): readonly { readonly error: string; readonly count: number }[] {
  const groups = Map.groupBy(letters, ({ reason, error }) => `${reason}: ${error.name}: ${error.message}`);
  return Array.from(groups, ([error, { length }]) => ({ error, count: length })).sort(
    (a, b) => b.count - a.count,
  );
}

/** What happened in this process; the rest is in the database. */
export interface Happened {
  retries: number;
  duplicates: number;
  readonly deadBefore: number;
  readonly deadAfter: number;
}

export function formatReport(intake: IntakeReport, counts: Counts, happened: Happened, check: Check): string {
  const rows: readonly (readonly [string, string | number])[] = [
    ["orders", `${counts.orders} (${intake.placed} new in this run)`],
    ["invoices", counts.invoices],
    ["shipments", counts.shipments],
    ["mails", counts.mails],
    ["retries", happened.retries],
    ["duplicates suppressed", intake.duplicates + happened.duplicates],
    ["malformed lines", intake.malformed.length],
    ["dead letters before redrive", happened.deadBefore],
    ["dead letters after redrive", happened.deadAfter],
  ];
  const lines = rows.map(([name, value]) => `  ${name.padEnd(30)}${value}`);
  return ["report", ...lines, "", `lost ${check.lost}, twice ${check.twice}`].join("\n");
}
