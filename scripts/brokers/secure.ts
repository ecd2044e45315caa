/** The door that asks for TLS and a password, of the servers that have one beside their open door. */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { find, type Program } from "./programs.ts";
import type { Place } from "./settings.ts";

export const openssl: Program = { name: "openssl", debian: ["openssl"], brew: "openssl" };

/** Who may come in. The password has what URLs and configuration files need escaped. */
export const login = { username: "postrider", password: "horse@gallop:9/staple%25" } as const;

export type SecureDoor = {
  /** Without the login. */
  readonly url: string;
  readonly username: string;
  readonly password: string;
  /** The folder of `makeCertificates`. */
  readonly certificates: string;
};

/** The certificates of an instance, for as long as its data. */
export function certificatesOf({ home }: Pick<Place, "home">): string {
  return join(home, "tls");
}

const names = "IP:127.0.0.1,DNS:localhost";
const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/**
 * Makes in the folder, unless they are there: `ca.pem`; `server`, `expired` and `other-host`, signed by it; `self-signed`. Each
 * as `.pem` and `.key`, and `server-chain.pem` with key and certificates in one, as Kafka wants them.
 */
export async function makeCertificates(folder: string): Promise<void> {
  if (existsSync(folder)) return;
  // Made aside and renamed: half of them must not look like all of them.
  const fresh = `${folder}.new`;
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh, { recursive: true });
  const run = promisify(execFile);
  const file = find(openssl);
  const ssl = (...args: readonly string[]): Promise<unknown> => run(file, args, { cwd: fresh });
  const selfSigned = (name: string, subject: string, ...more: readonly string[]): Promise<unknown> => {
    const output = ["-keyout", `${name}.key`, "-out", `${name}.pem`, "-days", "365", "-subj", subject];
    return ssl("req", "-x509", ...curve, ...output, ...more);
  };
  const signed = async (name: string, alternatives: string, period: readonly string[]): Promise<void> => {
    await ssl("req", ...curve, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${name}`);
    await writeFile(join(fresh, `${name}.ext`), `subjectAltName=${alternatives}\n`);
    const ca = ["-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca.key", "-extfile", `${name}.ext`];
    await ssl("ca", "-batch", "-notext", ...ca, ...period, "-in", `${name}.csr`, "-out", `${name}.pem`);
  };
  await writeFile(join(fresh, "ca.conf"), caConfiguration);
  await writeFile(join(fresh, "index.txt"), "");
  await selfSigned("ca", "/CN=postrider-tests");
  await selfSigned("self-signed", "/CN=localhost", "-addext", `subjectAltName=${names}`);
  // One after the other: each writes into the list of what was signed.
  await signed("server", names, ["-days", "365"]);
  await signed("other-host", "DNS:elsewhere.example", ["-days", "365"]);
  await signed("expired", names, ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]);
  const chain = ["server.key", "server.pem", "ca.pem"].map((name) => readFile(join(fresh, name), "utf8"));
  await writeFile(join(fresh, "server-chain.pem"), (await Promise.all(chain)).join(""));
  await rename(fresh, folder);
}

const caConfiguration = `\
[ca]
default_ca = tests
[tests]
database = index.txt
new_certs_dir = .
default_md = sha256
rand_serial = yes
policy = subject
[subject]
commonName = supplied
`;
