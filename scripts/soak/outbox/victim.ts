/** A child process that is killed at random and comes back each time. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Place } from "./shared.ts";

const program = fileURLToPath(new URL("child.ts", import.meta.url));

export interface Victim {
  /** How often it said something, by what it said. */
  readonly said: ReadonlyMap<string, number>;
  /** SIGKILL once it is at work; resolves when the next one has been started. */
  readonly kill: () => Promise<void>;
  /** Ends it for good. */
  close(): Promise<void>;
}

export function startVictim(role: "relay" | "consumer", place: Place): Victim {
  const said = new Map<string, number>();
  let child: ChildProcess;
  let ready: Promise<void>;
  let exited: Promise<void>;
  let expected = false;

  const start = (): void => {
    expected = false;
    child = spawn(process.execPath, ["--conditions=postrider-source", program, role, JSON.stringify(place)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    ready = promise;
    // Whoever waits for it learns of it.
    promise.catch(() => undefined);
    exited = new Promise((done) => child.once("close", () => done()));
    child.once("close", (code) => {
      const error = new Error(`the ${role} ended by itself with ${code}`);
      reject(error);
      if (!expected) throw error;
    });
    createInterface({ input: child.stdout as NonNullable<typeof child.stdout> }).on("line", (text) => {
      if (text === "ready") resolve();
      else said.set(text, (said.get(text) ?? 0) + 1);
    });
  };
  const end = async (): Promise<void> => {
    expected = true;
    child.kill("SIGKILL");
    await exited;
  };

  start();
  return {
    said,
    async kill() {
      await ready;
      await end();
      start();
    },
    close: end,
  };
}
