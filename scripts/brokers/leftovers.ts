import { readdirSync, readlinkSync, realpathSync } from "node:fs";
import { sep } from "node:path";
import { identify, killFamily } from "./process.ts";

/**
 * Ends what outlived a server that was killed by hand: nobody is its parent any more, so it is known by the
 * program it runs and the folder it works in. A busy PostgreSQL backend stays for as long as its query takes,
 * and keeps its old data from being used until then. Looks on Linux only; elsewhere there is no `/proc`.
 */
export async function endLeftovers(file: string, folders: readonly string[]): Promise<void> {
  if (process.platform !== "linux") return;
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry) || !worksIn(entry, file, folders)) continue;
    const id = identify(Number(entry));
    if (id) await killFamily(id);
  }
}

function worksIn(pid: string, file: string, folders: readonly string[]): boolean {
  try {
    // A developer's shell or editor may well stand in the folder: only the server's own program is meant.
    if (readlinkSync(`/proc/${pid}/exe`) !== file) return false;
    const cwd = readlinkSync(`/proc/${pid}/cwd`);
    return folders.some((folder) => `${cwd}${sep}`.startsWith(`${realpathSync(folder)}${sep}`));
  } catch {
    return false; // ended meanwhile, somebody else's, or no such folder
  }
}
