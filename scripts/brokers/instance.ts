/** What can be done to one of our instances, whichever way it runs. One caller at a time changes it. */
import { docker, dockerAnswers } from "./docker.ts";
import { liveServer, local } from "./local.ts";
import { withLock } from "./lock.ts";
import { install, missing } from "./programs.ts";
import { readRecord } from "./record.ts";
import { say, secondsSince } from "./say.ts";
import type { Runner, Server, State } from "./server.ts";
import { placeOf, portVariable, type Place } from "./settings.ts";

export type Instance = {
  up(): Promise<void>;
  down(options?: { readonly keep?: boolean }): Promise<void>;
  start(): Promise<void>;
  stop(): Promise<void>;
  kill(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  pid(): number | undefined;
  status(): Promise<Status>;
};

export type Status = {
  readonly version: string | undefined;
  readonly pid: number | undefined;
  /** `starting` also stands for a server that runs but does not answer. */
  readonly state: State | "starting" | "up (container)";
};

export function instanceOf(server: Server): Instance {
  const { name } = server;
  const place = placeOf(name);
  const onWait = (): void => say(name, "waiting for another process that starts or stops it");
  const alone = (work: () => Promise<void>): Promise<void> =>
    withLock(`${place.home}.lock`, work, { onWait });
  const current = (): Runner => (readRecord(place)?.container ? docker : local);

  async function start(): Promise<void> {
    assertSamePort(place);
    const runner = await chooseRunner(server, place);
    await runner.start(server, place);
  }

  async function stop(): Promise<void> {
    await current().stop(server, place);
  }

  async function answers(): Promise<boolean> {
    // Asked of ours only: another server on the same port would answer as well.
    if ((await current().state(server, place)) !== "up") return false;
    return server.probe(place.port).then(
      () => true,
      () => false,
    );
  }

  return {
    start: () => alone(start),
    stop: () => alone(stop),

    up: async () => {
      assertSamePort(place);
      // Without the lock, so that it costs nothing when all is well.
      if (await answers()) return;
      await alone(async () => {
        if (await answers()) return; // thanks to the one we waited for
        const began = performance.now();
        say(name, `starting on port ${place.port}`);
        await start();
        say(name, `ready in ${secondsSince(began)}`);
      });
    },

    down: async ({ keep = false } = {}) => {
      await alone(async () => {
        const began = performance.now();
        const runner = current();
        const wasUp = (await runner.state(server, place)) !== "down";
        await runner.stop(server, place);
        if (!keep) await runner.remove(server, place);
        if (wasUp) say(name, `stopped in ${secondsSince(began)}`);
      });
    },

    // Without the lock: they change a running server from outside, at whatever moment a test wants them.
    kill: () => current().kill(server, place),
    pause: () => current().pause(server, place),
    resume: () => current().resume(server, place),

    pid: () => liveServer(place)?.pid,

    status: async () => {
      const state = await current().state(server, place);
      const version = readRecord(place)?.version;
      const pid = liveServer(place)?.pid;
      if (state !== "up") return { version, pid, state };
      if (!(await answers())) return { version, pid, state: "starting" };
      return { version, pid, state: current() === docker ? "up (container)" : "up" };
    },
  };
}

/** A second port for an instance that runs would mean a second server on the same data. */
function assertSamePort(place: Place): void {
  const record = readRecord(place);
  if (!record || record.port === place.port || (!record.container && !liveServer(place))) return;
  throw new Error(
    `runs on port ${record.port}, but now port ${place.port} is asked for. ` +
      `Stop it with \`down\` first, or set ${portVariable(place.name)}=${record.port}.`,
  );
}

/** As a process if all its programs are there, else in a container, else as a process after an installation. */
async function chooseRunner(server: Server, place: Place): Promise<Runner> {
  if (readRecord(place)?.container) return docker;
  const lacking = missing(server.programs());
  if (lacking.length === 0) return local;
  if (await dockerAnswers()) return docker;
  await install(server.name, lacking);
  return local;
}
