import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { talk, type Reader } from "./probe.ts";
import { find, type Program } from "./programs.ts";
import { run } from "./run.ts";
import type { Server } from "./server.ts";

const mariadbd: Program = program("mariadbd");
const installDb: Program = program("mariadb-install-db");

export const mariadb: Server = {
  name: "mariadb",
  ports: 1,
  stopSignal: "SIGTERM",
  readyWithinMs: 60_000,
  url: (port) => `mysql://root@127.0.0.1:${port}`,
  programs: () => [mariadbd, installDb],

  prepare: async ({ home }) => {
    const folder = join(home, "data");
    if (existsSync(folder)) return;
    // Made aside and renamed: an interrupted installation must not look like a database.
    const fresh = `${folder}.new`;
    await rm(fresh, { recursive: true, force: true });
    await mkdir(fresh, { recursive: true, mode: 0o700 });
    const args = ["--no-defaults", `--datadir=${fresh}`, ...asRoot(), "--skip-test-db"];
    await run(find(installDb), [...args, "--auth-root-authentication-method=normal"], {
      cwd: fresh,
      env: environment,
      timeoutMs: 120_000,
    });
    await rename(fresh, folder);
  },

  command: ({ home, port }) => {
    const folder = join(home, "data");
    const settings = {
      datadir: folder,
      port: `${port}`,
      "bind-address": "127.0.0.1",
      // Below the data folder: the full path may be longer than the kernel allows.
      socket: "server.sock",
      "pid-file": "server.pid",
      "skip-name-resolve": "1",
      "max-connections": "200",
      // A test that breaks connections must not lock this machine out.
      "max-connect-errors": "4294967295",
      "innodb-buffer-pool-size": "64M",
      "innodb-flush-log-at-trx-commit": "1",
    };
    const args = Object.entries(settings).map(([name, value]) => `--${name}=${value}`);
    return {
      file: find(mariadbd),
      args: ["--no-defaults", ...asRoot(), ...args],
      env: environment,
      cwd: folder,
    };
  },

  probe: (port) => talk(port, "", readLogin()),
};

const environment = { LC_ALL: "C", PATH: process.env["PATH"] ?? "" };

function program(name: string): Program {
  // Debian's is not on the PATH of every user.
  return { name, folders: () => ["/usr/sbin"], debian: ["mariadb-server"], brew: "mariadb" };
}

/** It runs as root only when told so; here it is nobody's but ours, and the data folder stays where it is. */
function asRoot(): readonly string[] {
  return process.getuid?.() === 0 ? ["--user=root"] : [];
}

/** Protocol 4.1, secure authentication. */
const capabilities = 0x0200 | 0x8000;

/** The server greets; the client logs in as root without a password, and leaves. */
function readLogin(): Reader {
  let version: string | undefined;
  return (received, socket) => {
    const length = received.length < 4 ? Infinity : received.readUIntLE(0, 3);
    if (received.length < 4 + length) return undefined;
    const greeting = received.subarray(4, 4 + length);
    if (greeting[0] === 0xff) throw new Error(greeting.toString("latin1", 3));
    if (version === undefined) {
      version = greeting.toString("latin1", 1, greeting.indexOf(0, 1)).replace(/^5\.5\.5-/, "");
      const login = Buffer.alloc(4 + 32);
      login.writeUInt32LE(capabilities, 4);
      login.writeUInt8(33, 12); // utf8
      const packet = Buffer.concat([login, Buffer.from("root\0\0")]);
      packet.writeUIntLE(packet.length - 4, 0, 3);
      packet.writeUInt8(1, 3);
      socket.write(packet);
    }
    const answer = received.subarray(4 + length);
    if (answer[4] === undefined) return undefined;
    if (answer[4] !== 0) throw new Error(answer.toString("latin1", 7));
    socket.write(Buffer.from([1, 0, 0, 0, 1])); // quit
    return version.split("-")[0];
  };
}
