/**
 * Writes orders.jsonl: 2,000 orders with duplicates, malformed lines, and orders that make trouble. The same every time.
 * Run: node --conditions=postrider-source examples/shop/generate.ts > examples/shop/orders.jsonl
 */
import type { Order } from "./topics.ts";

const count = 2_000;
const malformed = [
  "{ this is not JSON",
  '{"orderId":"o-x1","customer":"c-1"}',
  '{"orderId":"o-x2","customer":"c-2","total":-5}',
  '"just a string"',
  '{"orderId":"","customer":"c-3","total":100}',
  '{"orderId":"o-x3","customer":"c-4","total":1e400}',
  '{"orderId":"o-x4","customer":"c-5","total":100,"trouble":"unheard-of"}',
  "",
  '{"orderId":"o-x5","customer":"c-6","total":"12 EUR"}',
  "\u0000\u0001",
];

/** A small generator of numbers in [0, 1) that gives the same sequence on every machine. */
let state = 20_261_121;
function random(): number {
  state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
  return state / 0x80000000;
}

function troubleOf(n: number): Order["trouble"] {
  if (n % 50 === 17) return "billing-once";
  if (n % 100 === 31) return "billing-thrice";
  if (n % 80 === 43) return "billing-always";
  if (n % 60 === 59) return "shipping-once";
  return undefined;
}

const lines: string[] = [];
for (let n = 1; n <= count; n++) {
  const trouble = troubleOf(n);
  const order: Order = {
    orderId: `o-${String(n).padStart(4, "0")}`,
    customer: `c-${1 + Math.floor(random() * 150)}`,
    total: 100 + Math.floor(random() * 50_000),
    ...(trouble === undefined ? {} : { trouble }),
  };
  const line = JSON.stringify(order);
  lines.push(line);
  // A customer who presses the button twice, at once or a little later.
  if (n % 40 === 0) lines.push(line);
  if (n % 100 === 50) lines.push(lines[Math.floor(random() * lines.length)] ?? line);
  if (n % 200 === 99) lines.push(malformed[(n - 99) / 200] ?? "");
}
process.stdout.write(`${lines.join("\n")}\n`);
