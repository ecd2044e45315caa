/** Servers as processes of this machine. */
import { readFileSync, realpathSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { endLeftovers } from "./leftovers.ts";
import { assertPortsFree, untilOpen } from "./ports.ts";
import {
  family,
  isAlive,
  isPaused,
  killFamily,
  launch,
  logMark,
  pauseAll,
  signal,
  waitUntilGone,
  type ProcessId,
} from "./process.ts";
import { readRecord, removeRecord, writeRecord } from "./record.ts";
import { lastLines } from "./run.ts";
import { say } from "./say.ts";
import type { Runner, Server } from "./server.ts";
import type { Place } from "./settings.ts";

export const local: Runner = { state, start, stop, kill, pause, resume, remove };

/** The server's process, if it is still the one that was started here. */
export function liveServer(place: Place): ProcessId | undefined {
  const id = readRecord(place)?.server;
  return id && isAlive(id) ? id : undefined;
}

async function state(_server: Server, place: Place): ReturnType<Runner["state"]> {
  const id = liveServer(place);
  if (!id) return "down";
  return isPaused(id) ? "paused" : "up";
}

async function start(server: Server, place: Place): Promise<string> {
  await resume(server, place);
  const running = liveServer(place);
  const id = running ?? (await launchBoth(server, place));
  try {
    const version = await untilReady(server, place, id);
    writeRecord(place, { ...readRecord(place), port: place.port, version });
    return version;
  } catch (error) {
    // A failed start leaves nothing behind but its log; one that ran before may just be busy.
    if (!running) await kill(server, place);
    if (!running) await endRest(server, place);
    throw error;
  }
}

async function launchBoth(server: Server, place: Place): Promise<ProcessId> {
  // What outlived a killed server would hold its ports and its data.
  await endRest(server, place);
  await assertPortsFree(place, server.ports);
  await mkdir(place.home, { recursive: true });
  await server.prepare(place);
  const helperCommand = server.helper?.(place);
  const helper = helperCommand && launch(helperCommand, logFile(place));
  // Recorded at once: a process that nobody knows of could never be stopped.
  if (helper) writeRecord(place, { port: place.port, helper });
  if (helperCommand) await untilOpen(helperCommand.port, 10_000);
  const command = server.command(place);
  const file = realpathSync(command.file);
  const id = launch(command, logFile(place));
  writeRecord(place, { port: place.port, helper, server: id, file });
  return id;
}

async function untilReady(server: Server, place: Place, id: ProcessId): Promise<string> {
  const deadline = performance.now() + server.readyWithinMs;
  for (;;) {
    try {
      return await server.probe(place.port);
    } catch (error) {
      if (!isAlive(id)) throw failure(place, "ended before it was ready", error);
      if (performance.now() > deadline) {
        throw failure(place, `was not ready within ${server.readyWithinMs / 1000} s`, error);
      }
    }
    await sleep(25);
  }
}

async function stop(server: Server, place: Place): Promise<void> {
  const id = liveServer(place);
  if (id) {
    const members = family(id);
    signal(id, server.stopSignal);
    // A paused process gets its signal only when it goes on.
    for (const member of members) signal(member, "SIGCONT");
    if (!(await waitUntilGone(members, 20_000))) {
      say(server.name, "does not stop in 20 s: killing it");
      for (const member of members) await killFamily(member);
    }
  }
  await endRest(server, place);
  removeRecord(place);
}

async function endRest(server: Server, place: Place): Promise<void> {
  const { helper, file } = readRecord(place) ?? {};
  if (helper) await killFamily(helper);
  if (file) await endLeftovers(file, foldersOf(server, place));
}

async function kill(_server: Server, place: Place): Promise<void> {
  const id = liveServer(place);
  if (id) await killFamily(id);
}

// PostgreSQL serves each client in a process of its own: all of them are "the server".
async function pause(_server: Server, place: Place): Promise<void> {
  const id = liveServer(place);
  if (id && !(await pauseAll(family(id)))) throw new Error(`pid ${id.pid} did not stop on SIGSTOP`);
}

async function resume(_server: Server, place: Place): Promise<void> {
  const id = liveServer(place);
  for (const member of id ? family(id) : []) signal(member, "SIGCONT");
}

async function remove(server: Server, place: Place): Promise<void> {
  for (const folder of foldersOf(server, place)) await rm(folder, { recursive: true, force: true });
}

function foldersOf(server: Server, place: Place): readonly string[] {
  return [place.home, ...(server.outsideFolders?.(place) ?? [])];
}

function logFile(place: Place): string {
  return join(place.home, "server.log");
}

function failure(place: Place, what: string, cause: unknown): Error {
  let log = "";
  try {
    const text = readFileSync(logFile(place), "utf8");
    log = lastLines(text.slice(text.lastIndexOf(logMark) + logMark.length), 15);
  } catch {
    // It did not even get so far as to write one.
  }
  const reason = log ? `The end of ${logFile(place)}:\n${log}` : `It wrote nothing to ${logFile(place)}.`;
  return new Error(`${what}. ${reason}`, { cause });
}
