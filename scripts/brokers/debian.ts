/**
 * Newer servers than this system has, out of a later release of Debian: fetched by the system's own apt from the mirror it
 * is configured with, unpacked into a folder, installed nowhere. A server so unpacked sees that folder as its `/usr`.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { withLock } from "./lock.ts";
import { find, type Program } from "./programs.ts";
import { run } from "./run.ts";
import { say, secondsSince } from "./say.ts";
import type { Command } from "./server.ts";
import { libraryFolder, type BrokerName } from "./settings.ts";

export type Unpacked = {
  readonly name: BrokerName;
  /** Code name of the release. */
  readonly release: string;
  readonly packages: readonly string[];
};

const aptGet: Program = { name: "apt-get", debian: ["apt"], brew: "docker" };
const dpkgDeb: Program = { name: "dpkg-deb", debian: ["dpkg"], brew: "docker" };
const unshare: Program = { name: "unshare", debian: ["util-linux"], brew: "docker" };

/** What it takes to get and to start an unpacked server. */
export const unpacking: readonly Program[] = [aptGet, dpkgDeb, unshare];

/** The folder that the server sees as `/usr`; it exists only when complete. */
function folderOf({ name, release }: Unpacked): string {
  return join(libraryFolder, `${name}-${release}`);
}

/** Fetched once, kept over `down`. */
export async function fetchUnpacked(unpacked: Unpacked): Promise<void> {
  const folder = folderOf(unpacked);
  if (existsSync(folder)) return;
  const { name, release } = unpacked;
  const onWait = (): void => say(name, "waiting for another process that fetches it");
  await withLock(
    `${folder}.lock`,
    async () => {
      if (existsSync(folder)) return; // by that other process
      say(name, `fetching it from Debian ${release} (up to 70 MB)`);
      const start = performance.now();
      const partial = `${folder}.partial`;
      await rm(partial, { recursive: true, force: true });
      await unpack(unpacked, partial);
      await rename(join(partial, "root", "usr"), folder);
      await rm(partial, { recursive: true });
      say(name, `fetched in ${secondsSince(start)}`);
    },
    { onWait },
  );
}

/** With lists and a state of its own, in which nothing is installed yet: all that the packages need comes along. */
async function unpack({ release, packages }: Unpacked, folder: string): Promise<void> {
  for (const path of ["state/lists/partial", "cache/archives/partial", "root"]) {
    await mkdir(join(folder, path), { recursive: true });
  }
  await writeFile(join(folder, "status"), "");
  await writeFile(join(folder, "sources.list"), `deb ${await mirror()} ${release} main\n`);
  const settings = {
    "Dir::State": join(folder, "state"),
    "Dir::State::status": join(folder, "status"),
    "Dir::Cache": join(folder, "cache"),
    "Dir::Etc::SourceList": join(folder, "sources.list"),
    "Dir::Etc::SourceParts": "/dev/null",
    // A testing release may be past its date; its signature is checked all the same.
    "Acquire::Check-Valid-Until": "false",
  };
  const options = Object.entries(settings).flatMap(([key, value]) => ["-o", `${key}=${value}`]);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const apt = (...args: readonly string[]): Promise<string> =>
    run(find(aptGet), ["-q", ...options, ...args], { env, timeoutMs: 600_000 });
  await apt("update");
  await apt("install", "-y", "--no-install-recommends", "--download-only", ...packages);
  const archives = join(folder, "cache", "archives");
  // `base-files` first: it says that /bin and /lib are links into /usr.
  const files = (await readdir(archives)).filter((file) => file.endsWith(".deb"));
  files.sort((a, b) => Number(b.startsWith("base-files_")) - Number(a.startsWith("base-files_")));
  for (const file of files) {
    await run(find(dpkgDeb), ["-x", join(archives, file), join(folder, "root")], { timeoutMs: 120_000 });
  }
}

/** The Debian archive among the sources of this system. */
async function mirror(): Promise<string> {
  const targets = await run(find(aptGet), ["indextargets", "--format", "$(REPO_URI)"], { timeoutMs: 60_000 });
  const found = targets.split("\n").find((uri) => /\/debian\/?$/.test(uri));
  if (found === undefined) {
    throw new Error("this system's apt knows no Debian mirror; with Docker it would run as a container");
  }
  return found;
}

/** The command in a view of the file system of its own, where `/usr` is the unpacked one. It keeps its pid. */
export function within(unpacked: Unpacked, command: Command): Command {
  const asRoot = process.getuid?.() === 0 ? [] : ["--map-root-user"];
  const script = 'mount --bind "$0" /usr && exec "$@"';
  return {
    ...command,
    file: find(unshare),
    args: [
      ...asRoot,
      "--mount",
      "--propagation",
      "private",
      "/bin/sh",
      "-c",
      script,
      folderOf(unpacked),
      command.file,
      ...command.args,
    ],
  };
}
