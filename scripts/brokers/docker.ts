/** Servers as containers of `compose.yaml`, on the same ports and with the same URLs. */
import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { proxiedPorts } from "./kafka.ts";
import { assertPortsFree } from "./ports.ts";
import { readRecord, writeRecord } from "./record.ts";
import { run } from "./run.ts";
import type { Runner, Server, State } from "./server.ts";
import { brokersFolder, composeFile, portVariable, type Place } from "./settings.ts";
import { which } from "./which.ts";

export const docker: Runner = {
  state,
  start,
  stop: async (_server, place) => void (await compose(place, "stop")),
  kill: async (_server, place) => void (await compose(place, "kill", "--signal", "SIGKILL")),
  pause: async (_server, place) => void (await compose(place, "pause")),
  resume: async (_server, place) => void (await compose(place, "unpause")),
  // With its volumes: a container that stays keeps its data over stop, kill and start.
  remove: async (_server, place) => {
    await compose(place, "rm", "--force", "--volumes");
    await rm(place.home, { recursive: true, force: true });
  },
};

/** An engine that answers: the program alone is often installed without one. */
export async function dockerAnswers(): Promise<boolean> {
  if (which("docker").length === 0) return false;
  try {
    await run("docker", ["info"], { timeoutMs: 10_000 });
    await run("docker", ["compose", "version"], { timeoutMs: 10_000 });
    return true;
  } catch {
    return false;
  }
}

async function state(_server: Server, place: Place): Promise<State> {
  const isListed = async (status: string): Promise<boolean> =>
    (await compose(place, "ps", "--quiet", "--status", status)).trim() !== "";
  if (await isListed("paused")) return "paused";
  return (await isListed("running")) ? "up" : "down";
}

async function start(server: Server, place: Place): Promise<string> {
  const current = await state(server, place);
  if (current === "paused") await compose(place, "unpause");
  if (current === "down") await assertPortsFree(place, server.ports);
  writeRecord(place, { ...readRecord(place), port: place.port, container: true });
  await compose(place, "up", "--detach", "--quiet-pull");
  const version = await untilReady(server, place);
  writeRecord(place, { port: place.port, container: true, version });
  return version;
}

async function untilReady(server: Server, place: Place): Promise<string> {
  const deadline = performance.now() + server.readyWithinMs;
  for (;;) {
    try {
      return await server.probe(place.port);
    } catch (error) {
      const ended = (await state(server, place)) === "down";
      if (ended || performance.now() > deadline) {
        const what = ended
          ? "ended before it was ready"
          : `was not ready within ${server.readyWithinMs / 1000} s`;
        const log = await compose(place, "logs", "--no-color", "--tail", "15");
        throw new Error(`${what}. The end of its log:\n${log}`, { cause: error });
      }
    }
    await sleep(100);
  }
}

function compose(place: Place, ...args: readonly string[]): Promise<string> {
  const { listen, advertised } = proxiedPorts(place.port);
  const port = portVariable(place.name);
  const env = {
    ...process.env,
    [port]: `${place.port}`,
    // Compose cannot add: Kafka's further ports are told one by one.
    [port.replace(/_PORT$/, "_PROXIED_PORT")]: `${listen}`,
    [port.replace(/_PORT$/, "_ADVERTISED_PORT")]: `${advertised}`,
  };
  const checkout = createHash("sha256").update(brokersFolder()).digest("hex").slice(0, 12);
  const project = ["compose", "--file", composeFile, "--project-name", `postrider-${checkout}`];
  // The first start pulls the image.
  return run("docker", [...project, ...args, place.name.replace("@", "-")], { env, timeoutMs: 600_000 });
}
