/** A folder of its own with a database, and processes on it, for one test. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ChildEvent, ChildOptions } from "./sqlite-child.ts";

export interface Child {
  readonly process: ChildProcess;
  /** Resolves with the exit code; `null` after a signal. */
  readonly exit: Promise<number | null>;
  /** What it wrote to stdout and stderr. */
  readonly output: () => string;
  /** kill -9; resolves when it is gone. */
  kill(): Promise<void>;
}

export interface Place extends AsyncDisposable {
  readonly folder: string;
  readonly path: string;
  readonly log: string;
  start(program: string, options?: Omit<ChildOptions, "log">): Child;
  /** All that the processes have logged so far. */
  events(): ChildEvent[];
}

const script = new URL("./sqlite-child.ts", import.meta.url).pathname;

/** Node 22 strips types only when asked to. */
export const nodeFlags: readonly string[] = [
  "--conditions=postrider-source",
  ...(Number(process.versions.node.split(".")[0]) < 24 ? ["--experimental-strip-types"] : []),
];

export async function openPlace(): Promise<Place> {
  const folder = await mkdtemp(join(tmpdir(), "postrider-sqlite-"));
  const [path, log] = [join(folder, "bus.db"), join(folder, "events.jsonl")];
  const children = new Set<Child>();
  return {
    folder,
    path,
    log,
    start(program, options = {}) {
      const child = startChild([...nodeFlags, script, program, path, JSON.stringify({ ...options, log })]);
      children.add(child);
      return child;
    },
    events: () => (existsSync(log) ? parseLines(readFileSync(log, "utf8")) : []),
    async [Symbol.asyncDispose]() {
      await Promise.all(Array.from(children, (child) => child.kill()));
      await rm(folder, { recursive: true });
    },
  };
}

/** `shell` wraps it: a command line in which `"$@"` is the process. */
export function startChild(args: readonly string[], shell?: string): Child {
  const command = [process.execPath, ...args];
  const child =
    shell === undefined ? spawn(process.execPath, args) : spawn("bash", ["-c", shell, "bash", ...command]);
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const exit = new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve(code));
  });
  return {
    process: child,
    exit,
    output: () => output,
    async kill() {
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
      await exit;
    },
  };
}

/** The last line of a process that was killed may be half a line. */
function parseLines(text: string): ChildEvent[] {
  return text.split("\n").flatMap((line) => {
    try {
      return [JSON.parse(line) as ChildEvent];
    } catch {
      return [];
    }
  });
}
