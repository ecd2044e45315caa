/** Detached processes that are found again, by any other process, without ever touching a stranger's. */
import { execFileSync, spawn } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "./server.ts";

/** A pid is reused by the kernel sooner or later; together with the start time it names one process for good. */
export type ProcessId = { readonly pid: number; readonly started: string };

type Row = ProcessId & { readonly parent: number; readonly state: string; readonly isDead: boolean };

/** Begins each start in a log. */
export const logMark = "\n---";

/** Starts a process in a session of its own, so that it survives ours; its output is appended to `log`. */
export function launch(command: Command, log: string): ProcessId {
  const output = openSync(log, "a");
  try {
    const line = [command.file, ...command.args].join(" ");
    writeSync(output, `${logMark} ${new Date().toISOString()} ${line}\n`);
    const child = spawn(command.file, command.args, {
      cwd: command.cwd,
      env: command.env,
      ...command.user,
      detached: true,
      stdio: ["ignore", output, output],
    });
    // Without a listener a failed spawn would end this process; the missing pid tells the same below.
    child.on("error", () => {});
    child.unref();
    const id = child.pid === undefined ? undefined : identify(child.pid);
    if (!id) throw new Error(`${command.file} could not be started`);
    return id;
  } finally {
    closeSync(output);
  }
}

/** The process that has this pid now. */
export function identify(pid: number): ProcessId | undefined {
  const row = look(pid);
  return row && { pid, started: row.started };
}

export function isAlive(id: ProcessId): boolean {
  const row = look(id.pid);
  return row !== undefined && row.started === id.started && !row.isDead;
}

export function isPaused(id: ProcessId): boolean {
  return isAlive(id) && look(id.pid)?.state === "T";
}

/** Sends a signal to one process, or to nobody if that process is gone and its pid is a stranger's by now. */
export function signal(id: ProcessId, name: NodeJS.Signals): void {
  // 0, 1 and negative numbers mean our own group, init, and whole groups.
  if (!Number.isInteger(id.pid) || id.pid <= 1) throw new Error(`refusing to signal pid ${id.pid}`);
  if (!isAlive(id)) return;
  try {
    process.kill(id.pid, name);
  } catch (error) {
    // It may have ended since the look above.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** The process and all its descendants, itself first. */
export function family(id: ProcessId): readonly ProcessId[] {
  if (!isAlive(id)) return [];
  const rows = list();
  const members: ProcessId[] = [id];
  for (const member of members) {
    for (const row of rows) {
      if (row.parent === member.pid && !row.isDead) members.push({ pid: row.pid, started: row.started });
    }
  }
  return members;
}

/** SIGSTOP; resolves with true when they have really stopped, which they do a moment after the signal. */
export function pauseAll(ids: readonly ProcessId[]): Promise<boolean> {
  for (const id of ids) signal(id, "SIGSTOP");
  return until(() => ids.every((id) => isPaused(id) || !isAlive(id)), 2000);
}

/** The whole family at one blow, as a power cut would do it. */
export async function killFamily(id: ProcessId): Promise<void> {
  // A stopped parent has no further children between the listing and the kill.
  await pauseAll([id]);
  const members = family(id);
  for (const member of members) signal(member, "SIGKILL");
  if (!(await waitUntilGone(members, 10_000))) throw new Error(`pid ${id.pid} did not end on SIGKILL`);
}

export function waitUntilGone(ids: readonly ProcessId[], withinMs: number): Promise<boolean> {
  return until(() => !ids.some(isAlive), withinMs);
}

async function until(condition: () => boolean, withinMs: number): Promise<boolean> {
  const deadline = performance.now() + withinMs;
  while (!condition()) {
    if (performance.now() > deadline) return false;
    await sleep(5);
  }
  return true;
}

function look(pid: number): Row | undefined {
  return process.platform === "linux" ? lookInProc(String(pid)) : askPs(["-p", String(pid)])[0];
}

function list(): readonly Row[] {
  if (process.platform !== "linux") return askPs(["-A"]);
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .flatMap((entry) => lookInProc(entry) ?? []);
}

function lookInProc(pid: string): Row | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const [state = "", parent = ""] = fields;
    const threads = Number(fields[17]);
    // A zombie runs no more, it only waits for a parent (which may be a slow one) to notice. But it shows as
    // one when its first thread has ended: until the last one has, ports and files are still open.
    const isDead = state === "Z" && threads <= 1;
    // Start times count from boot, so the boot belongs to them.
    return { pid: Number(pid), parent: Number(parent), state, isDead, started: `${bootId()}/${fields[19]}` };
  } catch {
    return undefined; // ended meanwhile
  }
}

let bootIdOnce: string | undefined;
function bootId(): string {
  bootIdOnce ??= readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  return bootIdOnce;
}

function askPs(selection: readonly string[]): readonly Row[] {
  try {
    const text = execFileSync("ps", [...selection, "-o", "pid=,ppid=,stat=,lstart="], {
      encoding: "utf8",
      env: { ...process.env, LC_ALL: "C" },
      stdio: ["ignore", "pipe", "ignore"],
    });
    return text.split("\n").flatMap((line) => {
      const [, pid, parent, state, started] = /^\s*(\d+)\s+(\d+)\s+(\S)\S*\s+(.+?)\s*$/.exec(line) ?? [];
      if (!pid || !parent || !state || !started) return [];
      return [{ pid: Number(pid), parent: Number(parent), state, isDead: state === "Z", started }];
    });
  } catch {
    return []; // ps exits 1 when nothing matches
  }
}
