/** Installs Debian and Ubuntu packages without letting their services start. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { withLock } from "./lock.ts";
import { run } from "./run.ts";
import { say, secondsSince } from "./say.ts";
import { brokersFolder } from "./settings.ts";
import { which } from "./which.ts";

// Every package's scripts ask it before they start a service; 101 means "forbidden".
const policyFile = "/usr/sbin/policy-rc.d";
const policy =
  "#!/bin/sh\n# Made by `npm run brokers` while it installs packages; to be removed by it.\nexit 101\n";

export function aptCanInstall(): boolean {
  return process.getuid?.() === 0 && which("apt-get").length > 0;
}

/** Installs one package of each list of alternatives: the first one that this release has. */
export async function aptInstall(who: string, wanted: readonly (readonly string[])[]): Promise<void> {
  const onWait = (): void => say(who, "waiting for another installation");
  // One at a time: servers are started side by side, and a second apt-get would fail on the first one's lock.
  await withLock(join(brokersFolder(), "apt.lock"), () => installNow(who, wanted), { onWait });
}

async function installNow(who: string, wanted: readonly (readonly string[])[]): Promise<void> {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const patient = ["-q", "-o", "DPkg::Lock::Timeout=120"];
  const start = performance.now();
  say(who, "running apt-get update");
  await run("apt-get", [...patient, "update"], { env, timeoutMs: 180_000 });
  const packages = new Set<string>();
  for (const alternatives of wanted) packages.add(await firstAvailable(alternatives));
  const command = [...patient, "install", "-y", "--no-install-recommends", ...packages];
  say(who, `running apt-get install -y --no-install-recommends ${[...packages].join(" ")}`);
  const allowServices = forbidServices();
  // An installation cut short is worse than one waited for, and the services stay forbidden until its end.
  let interrupted = false;
  const interrupt = (): void => {
    interrupted = true;
    say(who, "will end after this installation");
  };
  for (const name of ["SIGINT", "SIGTERM"]) process.on(name, interrupt);
  try {
    await run("apt-get", command, { env, timeoutMs: 900_000 });
  } finally {
    allowServices();
    for (const name of ["SIGINT", "SIGTERM"]) process.off(name, interrupt);
    if (interrupted) process.exit(1);
  }
  say(who, `installed in ${secondsSince(start)}; no service was started`);
}

async function firstAvailable(alternatives: readonly string[]): Promise<string> {
  const env = { ...process.env, LC_ALL: "C" };
  for (const name of alternatives) {
    const answer = await run("apt-cache", ["policy", name], { env, timeoutMs: 60_000 });
    if (/^ {2}Candidate: (?!\(none\))/m.test(answer)) return name;
  }
  throw new Error(`this system's package lists have none of: ${alternatives.join(", ")}`);
}

/** Returns the way back. A rule that exists already forbids or allows what its owner wants: it stays. */
function forbidServices(): () => void {
  try {
    writeFileSync(policyFile, policy, { mode: 0o755, flag: "wx" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    // Our own, left behind by a run that was killed, is removed this time.
    if (readFileSync(policyFile, "utf8") !== policy) return () => {};
  }
  return () => rmSync(policyFile, { force: true });
}
