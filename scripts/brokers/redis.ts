import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fetchUnpacked, unpacking, within, type Unpacked } from "./debian.ts";
import { talk } from "./probe.ts";
import { find, type Program } from "./programs.ts";
import { certificatesOf, login, makeCertificates, openssl } from "./secure.ts";
import type { Server } from "./server.ts";
import type { BrokerName, Place } from "./settings.ts";

const redisServer: Program = { name: "redis-server", debian: ["redis-server"], brew: "redis" };

export const redis: Server = server("redis");
export const redis8: Server = server("redis@8", { release: "trixie", program: "redis-server" });
export const valkey8: Server = server("valkey@8", { release: "trixie", program: "valkey-server" });

/** The system's own version, or that of a Debian release, where package and program have one name. */
function server(name: BrokerName, from?: { readonly release: string; readonly program: string }): Server {
  const unpacked: Unpacked | undefined = from && {
    name,
    release: from.release,
    packages: [from.program, "dash"],
  };
  const version = new RegExp(
    `^\\+PONG\\r\\n[^]*\\n${name.startsWith("valkey") ? "valkey" : "redis"}_version:(\\S+)\\r\\n`,
  );
  return {
    name,
    ports: 2,
    stopSignal: "SIGTERM",
    readyWithinMs: 20_000,
    url: (port) => `redis://127.0.0.1:${port}`,
    secureUrl: (port) => `rediss://127.0.0.1:${port + 1}`,
    programs: () => [openssl, ...(unpacked ? unpacking : [redisServer])],

    prepare: async (place) => {
      if (unpacked) await fetchUnpacked(unpacked);
      await mkdir(join(place.home, "data"), { recursive: true });
      await makeCertificates(certificatesOf(place));
    },

    command: (place) => {
      const how = { args: settings(place), env: { LC_ALL: "C" }, cwd: place.home };
      if (unpacked && from) return within(unpacked, { file: `/usr/bin/${from.program}`, ...how });
      return { file: find(redisServer), ...how };
    },

    probe: (port) =>
      talk(port, "PING\r\nINFO server\r\n", (received) => {
        const text = received.toString("latin1");
        // While it reads its files it answers "-LOADING".
        if (text.startsWith("-")) throw new Error(text);
        return version.exec(text)?.[1];
      }),
  };
}

/** An acknowledged write is on disk and is never evicted: what a store of messages needs. */
function settings({ home, port }: Place): readonly string[] {
  const certificates = certificatesOf({ home });
  const values: Readonly<Record<string, readonly string[]>> = {
    port: [`${port}`],
    bind: ["127.0.0.1"],
    dir: [join(home, "data")],
    appendonly: ["yes"],
    appendfsync: ["always"],
    save: [""],
    maxmemory: ["512mb"],
    "maxmemory-policy": ["noeviction"],
    user: [login.username, "on", `>${login.password}`, "~*", "&*", "+@all"],
    "tls-port": [`${port + 1}`],
    "tls-ca-cert-file": [join(certificates, "ca.pem")],
    "tls-cert-file": [join(certificates, "server.pem")],
    "tls-key-file": [join(certificates, "server.key")],
    "tls-auth-clients": ["no"],
  };
  return Object.entries(values).flatMap(([name, words]) => [`--${name}`].concat(words));
}
