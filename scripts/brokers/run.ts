import { execFile } from "node:child_process";

export type RunOptions = {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly uid?: number;
  readonly gid?: number;
  readonly timeoutMs: number;
};

/** Runs a short-lived program to its end; the error of a failed one shows the last lines it wrote. */
export function run(file: string, args: readonly string[], options: RunOptions): Promise<string> {
  const { timeoutMs, ...rest } = options;
  return new Promise((resolve, reject) => {
    const settings = { ...rest, timeout: timeoutMs, killSignal: "SIGKILL" as const, maxBuffer: 64 << 20 };
    const child = execFile(file, args, settings, (error, stdout, stderr) => {
      if (!error) return resolve(stdout);
      const why = error.killed
        ? `took longer than ${timeoutMs / 1000} s`
        : `failed (${error.code ?? error.signal})`;
      const output = lastLines(`${stdout}\n${stderr}`, 15);
      reject(
        new Error(`\`${[file, ...args].join(" ")}\` ${why}${output && `:\n${output}`}`, { cause: error }),
      );
    });
    // A program that asks a question must meet the end of its input, not wait for an answer.
    child.stdin?.end();
  });
}

export function lastLines(text: string, count: number): string {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines
    .slice(-count)
    .map((line) => `  | ${line}`)
    .join("\n");
}
