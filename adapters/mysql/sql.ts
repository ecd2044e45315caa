/**
 * SQL with its values in it. Every text goes in as a hexadecimal literal, which means the same bytes whatever `sql_mode`,
 * character set and settings of the driver a connection has: our statements also run on connections of users.
 */

type Value = Sql | string | Uint8Array | number | bigint | boolean | null | readonly Value[];

export class Sql {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/**
 * Builds a statement: a list becomes its members with commas between them, an empty one NULL, which nothing is in; `Sql` is
 * taken as it is.
 */
export function sql(strings: TemplateStringsArray, ...values: readonly Value[]): Sql {
  return new Sql(strings.reduce((text, next, i) => text + literal(values[i - 1] ?? null) + next));
}

export function joined(parts: readonly Sql[], separator: string): Sql {
  return new Sql(parts.map(({ text }) => text).join(separator));
}

function literal(value: Value): string {
  if (value instanceof Sql) return value.text;
  if (typeof value === "string") return `X'${Buffer.from(value).toString("hex")}'`;
  if (value instanceof Uint8Array)
    return `X'${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("hex")}'`;
  if (value === null) return "NULL";
  if (typeof value === "object") return value.map(literal).join(", ") || "NULL";
  return typeof value === "boolean" ? `${Number(value)}` : `${value}`;
}
