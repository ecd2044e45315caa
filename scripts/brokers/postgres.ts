import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, globSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { chown, mkdir, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { talk, type Reader } from "./probe.ts";
import { isAlive } from "./process.ts";
import { find, type Program } from "./programs.ts";
import { readRecord } from "./record.ts";
import { run } from "./run.ts";
import { say } from "./say.ts";
import type { Server } from "./server.ts";
import type { Place } from "./settings.ts";

const postgresProgram: Program = program("postgres");
const initdb: Program = program("initdb");

export const postgres: Server = {
  name: "postgres",
  ports: 1,
  // SIGTERM would wait until the last client has left by itself.
  stopSignal: "SIGINT",
  readyWithinMs: 60_000,
  url: (port) => `postgres://postgres@127.0.0.1:${port}/postgres`,
  programs: () => [postgresProgram, initdb],
  outsideFolders: (place) => [tmpFolder(place)],

  prepare: async (place) => {
    await mkdir(place.home, { recursive: true });
    const folder = dataFolder(place);
    if (existsSync(folder)) return disownStaleLock(place, folder);
    if (!folder.startsWith(place.home)) {
      say("postgres", `user postgres may not enter ${place.home}: its data goes to ${folder}`);
    }
    // Made aside and renamed: an interrupted initdb must not look like a database.
    const fresh = `${folder}.new`;
    const user = runAs();
    await rm(fresh, { recursive: true, force: true });
    await mkdir(fresh, { recursive: true, mode: 0o700 });
    if (user) await chown(fresh, user.uid, user.gid);
    const args = ["-D", fresh, ..."-U postgres -A trust -E UTF8 --locale=C".split(" ")];
    await run(find(initdb), args, { ...user, cwd: fresh, env: environment, timeoutMs: 60_000 });
    await rename(fresh, folder);
  },

  command: (place) => {
    const folder = dataFolder(place);
    const user = runAs();
    const settings = [
      `port=${place.port}`,
      "listen_addresses=127.0.0.1",
      // No socket file: its path may be longer than the kernel allows.
      "unix_socket_directories=",
      "max_connections=100",
      "shared_buffers=64MB",
      "wal_level=logical",
      "max_prepared_transactions=10",
      "fsync=on",
    ];
    return {
      file: find(postgresProgram),
      args: ["-D", folder, ...settings.flatMap((setting) => ["-c", setting])],
      env: environment,
      cwd: folder,
      ...(user && { user }),
    };
  },

  probe: (port) => talk(port, startupMessage("postgres"), readStartup()),
};

const environment = { LC_ALL: "C", PATH: process.env["PATH"] ?? "" };

function program(name: string): Program {
  return { name, folders: debianFolders, debian: ["postgresql"], brew: "postgresql" };
}

/** Debian keeps one folder per version and only its own wrappers on the PATH; the newest version comes first. */
function debianFolders(): readonly string[] {
  const version = (folder: string): number => Number.parseFloat(folder.split("/")[4] ?? "");
  return globSync("/usr/lib/postgresql/*/bin").toSorted((a, b) => version(b) - version(a));
}

/** PostgreSQL refuses to run as root; its package brings a user for it. */
function runAs(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const id = (flag: string): number => Number(execFileSync("id", [flag, "postgres"], { encoding: "utf8" }));
  return { uid: id("-u"), gid: id("-g") };
}

/** Below `home`, unless that lies under a folder which user postgres may not enter, such as a private home. */
function dataFolder(place: Place): string {
  const inside = join(place.home, "data");
  if (process.getuid?.() !== 0 || existsSync(inside) || isOpenToAll(place.home)) return inside;
  return tmpFolder(place);
}

/**
 * A killed server stays a zombie until its parent notices, which PostgreSQL takes for a server that runs.
 * The pid of the new server's parent, which is us, counts as stale; PostgreSQL's own guard against leftover
 * processes of the old server, the shared memory named in the same file, stays in force.
 */
function disownStaleLock(place: Place, folder: string): void {
  const file = join(folder, "postmaster.pid");
  const last = readRecord(place)?.server;
  if (!last || isAlive(last) || !existsSync(file)) return;
  const [pid, ...rest] = readFileSync(file, "utf8").split("\n");
  if (Number(pid) === last.pid) writeFileSync(file, [process.pid, ...rest].join("\n"));
}

function isOpenToAll(folder: string): boolean {
  const open = (statSync(folder).mode & 0o001) !== 0;
  const parent = dirname(folder);
  return open && (parent === folder || isOpenToAll(parent));
}

function tmpFolder({ home }: Place): string {
  const checkout = createHash("sha256").update(home).digest("hex").slice(0, 12);
  return join(tmpdir(), `postrider-postgres-${checkout}`);
}

function startupMessage(user: string): Buffer {
  const parameters = Buffer.from(`user\0${user}\0database\0postgres\0\0`);
  const head = Buffer.alloc(8);
  head.writeUInt32BE(8 + parameters.length, 0);
  head.writeUInt32BE(3 << 16, 4); // protocol 3.0
  return Buffer.concat([head, parameters]);
}

/** Reads messages of the form type, length, body until the server is ready for a query, then leaves. */
function readStartup(): Reader {
  let version = "unknown";
  return (received, socket) => {
    let at = 0;
    while (received.length >= at + 5 && received.length >= at + 1 + received.readUInt32BE(at + 1)) {
      const type = String.fromCharCode(received[at] ?? 0);
      const body = received.toString("utf8", at + 5, at + 1 + received.readUInt32BE(at + 1));
      if (type === "E") throw new Error(body.replaceAll("\0", " "));
      if (type === "S" && body.startsWith("server_version\0")) version = body.split("\0")[1] ?? version;
      if (type === "Z") {
        socket.write(Buffer.from([0x58, 0, 0, 0, 4])); // Terminate
        return version.split(" ")[0];
      }
      at += 1 + received.readUInt32BE(at + 1);
    }
    return undefined;
  };
}
