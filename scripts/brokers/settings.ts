/** Where instances live, which ports they use, and the environment variables that change either. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

// Far from the default ports (a system service must never be mistaken for ours) and below the range from
// which kernels hand out client ports: 32768 and up on Linux, 49152 and up elsewhere.
const defaultPorts = {
  rabbitmq: 21672, // then 21673 between nodes, 21674 epmd, 21675 TLS
  "rabbitmq@4": 21772, // likewise
  "rabbitmq@4.3": 21872,
  kafka: 21092, // then 21093 controller, 21094 and 21095 for a proxy, 21096 TLS
  "kafka@3.9": 21192, // likewise
  redis: 21379, // then 21380 TLS
  "redis@8": 21479, // likewise
  "valkey@8": 21579,
  postgres: 21432,
  mariadb: 21306,
} as const;

export type BrokerName = keyof typeof defaultPorts;

/** What `up` starts when no name is given; the others are started by name only. */
export const brokerNames: readonly BrokerName[] = ["rabbitmq", "kafka", "redis", "postgres", "mariadb"];
export const allBrokerNames: readonly BrokerName[] = Object.keys(defaultPorts) as BrokerName[];

/** One instance: its folder and the first of its ports. A server may listen on the next few ports too. */
export type Place = { readonly name: BrokerName; readonly home: string; readonly port: number };

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));
export const composeFile: string = join(projectFolder, "compose.yaml");

/** Downloads outlive `down` and are shared by every instance of this checkout. */
export const libraryFolder: string = join(projectFolder, ".brokers", "lib");

/** The folder of all instances: `.brokers`, or `POSTRIDER_BROKERS_DIR`. */
export function brokersFolder(): string {
  const given = process.env["POSTRIDER_BROKERS_DIR"];
  if (!given) return join(projectFolder, ".brokers");
  const folder = resolve(given);
  // `down` deletes folders below it; a slip such as "$UNSET/" must not point it at a home or at the root.
  if (folder === resolve("/") || folder === resolve(homedir())) {
    throw new Error(`POSTRIDER_BROKERS_DIR is ${folder}: name a folder of its own.`);
  }
  return folder;
}

export function placeOf(name: BrokerName): Place {
  return { name, home: join(brokersFolder(), name), port: portOf(name) };
}

export function portVariable(name: BrokerName): string {
  return `POSTRIDER_${shout(name)}_PORT`;
}

export function urlVariable(name: BrokerName): string {
  // A given server may be either of the two that the store works on, and is called as the store is.
  return `POSTRIDER_TEST_${name === "mariadb" ? "MYSQL" : shout(name)}_URL`;
}

/** The URL of a server that somebody else runs and that tests shall use instead of ours. */
export function givenUrl(name: BrokerName): string | undefined {
  return process.env[urlVariable(name)] || undefined;
}

function portOf(name: BrokerName): number {
  const variable = portVariable(name);
  const given = process.env[variable];
  if (!given) return defaultPorts[name];
  const port = Number(given);
  // Room for the ports that follow the first one.
  if (!Number.isInteger(port) || port < 1024 || port > 65530) {
    throw new Error(`${variable} is "${given}": give a port from 1024 to 65530.`);
  }
  return port;
}

function shout(name: BrokerName): string {
  return name.toUpperCase().replaceAll(/[^A-Z0-9]/g, "_");
}
