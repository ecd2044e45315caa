import type { Program } from "./programs.ts";
import type { BrokerName, Place } from "./settings.ts";

/** A program to start, with its whole environment: nothing of the developer's own settings leaks in. */
export type Command = {
  readonly file: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  /** Run as this user instead of ourselves; only root may ask for it. */
  readonly user?: { readonly uid: number; readonly gid: number };
};

/** What is particular to one server. Everything common to all of them is in the two runners. */
export type Server = {
  readonly name: BrokerName;
  /** How many ports, from the first one on, it listens on. */
  readonly ports: number;
  url(port: number): string;
  /** Where it takes TLS and a login only, without the login; a server in a container has no such door. */
  secureUrl?(port: number): string;
  /** The programs it cannot be started without. */
  programs(): readonly Program[];
  /** Writes the configuration, and an empty data folder if there is none; existing data stays. */
  prepare(place: Place): Promise<void>;
  command(place: Place): Command;
  /** A process that must listen before the server starts, and that ends after it. */
  helper?(place: Place): Command & { readonly port: number };
  /** One attempt to talk to it as a client would: resolves with its version, rejects if it is not ready. */
  probe(port: number): Promise<string>;
  /** The signal of an orderly stop that does not wait for clients. */
  readonly stopSignal: "SIGTERM" | "SIGINT";
  readonly readyWithinMs: number;
  /** Data outside `home`. */
  outsideFolders?(place: Place): readonly string[];
};

export type State = "up" | "paused" | "down";

/** A way to run servers: as processes of this machine (`local.ts`) or in containers (`docker.ts`). */
export type Runner = {
  state(server: Server, place: Place): Promise<State>;
  /** Starts it on the data that is there; resolves when it is ready, with its version. */
  start(server: Server, place: Place): Promise<string>;
  /** Orderly stop of everything that was started; nothing to do if it is down. */
  stop(server: Server, place: Place): Promise<void>;
  kill(server: Server, place: Place): Promise<void>;
  pause(server: Server, place: Place): Promise<void>;
  resume(server: Server, place: Place): Promise<void>;
  /** Removes the data of a stopped server. */
  remove(server: Server, place: Place): Promise<void>;
};
