/** Rounds that take turns, so that what else the machine does meets all contestants alike; medians, and one table. */
export interface Contestant {
  readonly name: string;
  /** One figure of one round. */
  readonly run: () => Promise<number>;
}

/** The median of each contestant. Every second round goes backwards, so that nobody always follows the same neighbour. */
export async function interleave(
  contestants: readonly Contestant[],
  rounds: number,
): Promise<ReadonlyMap<string, number>> {
  const figures = new Map(contestants.map(({ name }) => [name, [] as number[]]));
  for (let round = 0; round < rounds; round += 1) {
    for (const { name, run } of round % 2 === 0 ? contestants : contestants.toReversed())
      figures.get(name)?.push(await run());
  }
  return new Map(Array.from(figures, ([name, all]) => [name, quantile(all, 0.5)]));
}

export function quantile(figures: readonly number[], share: number): number {
  const sorted = figures.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** Milliseconds that `act` takes. */
export async function timed(act: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await act();
  return performance.now() - start;
}

export interface Line {
  readonly what: string;
  readonly figure: string;
  /** `≥ 0.8` and whether it was met, where there is a goal. */
  readonly goal?: string | undefined;
}

export function line(what: string, figure: number, unit: string, goal?: Goal): Line {
  const digits = Math.abs(figure) < 10 ? 2 : 0;
  const text = `${figure.toLocaleString("en", { maximumFractionDigits: digits })} ${unit}`;
  if (goal === undefined) return { what, figure: text };
  const met = goal.atLeast ? figure >= goal.bound : figure <= goal.bound;
  return { what, figure: text, goal: `${goal.atLeast ? "≥" : "≤"} ${goal.bound} ${met ? "met" : "MISSED"}` };
}

interface Goal {
  readonly bound: number;
  readonly atLeast: boolean;
}

export const atLeast = (bound: number): Goal => ({ bound, atLeast: true });
export const atMost = (bound: number): Goal => ({ bound, atLeast: false });

export function table(lines: readonly Line[]): string {
  const rows = lines.map(({ what, figure, goal = "" }) => [what, figure, goal]);
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map(([what = "", figure = "", goal = ""]) =>
      `${what.padEnd(widths[0] ?? 0)}  ${figure.padStart(widths[1] ?? 0)}  ${goal}`.trimEnd(),
    )
    .join("\n");
}
