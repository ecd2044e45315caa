/**
 * The real servers that the tests run against: private instances that any process of this checkout may start,
 * kill and start again.
 *
 * @example
 * const redis = broker("redis");
 * await redis.up();
 * await redis.kill(); // as a crash would
 * await redis.start(); // on the same data
 */
import { instanceOf, type Instance, type Status } from "./instance.ts";
import { kafka, kafka39, proxiedPorts, type ProxiedPorts } from "./kafka.ts";
import { mariadb } from "./mariadb.ts";
import { postgres } from "./postgres.ts";
import { rabbitmq, rabbitmq4, rabbitmq43 } from "./rabbitmq.ts";
import { readRecord } from "./record.ts";
import { redis, redis8, valkey8 } from "./redis.ts";
import { certificatesOf, login, type SecureDoor } from "./secure.ts";
import type { Server } from "./server.ts";
import { allBrokerNames, givenUrl, placeOf, urlVariable, type BrokerName } from "./settings.ts";

export { allBrokerNames, brokerNames } from "./settings.ts";
export type { BrokerName, SecureDoor };

export type Broker = {
  readonly name: BrokerName;
  readonly url: string;
  /** False if the server is given by an environment variable: then it cannot be killed, stopped or paused. */
  readonly ours: boolean;
  /**
   * Kafka tells its clients where to connect to. A client that starts at `advertised`, where a test's own
   * TCP proxy listens and forwards to `listen`, is told to come back to `advertised`, so that all of its
   * connections run through the proxy. Undefined for other servers and for a given one.
   */
  readonly proxied: ProxiedPorts | undefined;
  /** Where it takes TLS and a login only. Undefined for a given server, one in a container, and a database. */
  secure(): SecureDoor | undefined;
  /** Starts the server unless it is up already; resolves when it answers. */
  up(): Promise<void>;
  /** Stops the server with all its helpers and removes its data, unless told to keep that. */
  down(options?: { readonly keep?: boolean }): Promise<void>;
  /** Starts a killed or stopped server on the same data; resolves when it answers. */
  start(): Promise<void>;
  /** Orderly stop; keeps the data. Resolves when no process of it is left. */
  stop(): Promise<void>;
  /** SIGKILL to every process of the server at once; resolves when they are gone. */
  kill(): Promise<void>;
  /** SIGSTOP: connections stay open and nobody answers. `resume`, `up` or `start` end it. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** The server's process; undefined when it is down, given, or in a container. */
  pid(): number | undefined;
  status(): Promise<
    Status | { readonly state: "given"; readonly version: undefined; readonly pid: undefined }
  >;
};

const servers: Readonly<Record<BrokerName, Server>> = {
  rabbitmq,
  "rabbitmq@4": rabbitmq4,
  "rabbitmq@4.3": rabbitmq43,
  kafka,
  "kafka@3.9": kafka39,
  redis,
  "redis@8": redis8,
  "valkey@8": valkey8,
  postgres,
  mariadb,
};

/** The instance of that name; reads the environment now, touches nothing yet. */
export function broker(name: BrokerName): Broker {
  const given = givenUrl(name);
  if (given) return givenBroker(name, given);
  const server = servers[name];
  const place = placeOf(name);
  const { port } = place;
  const proxied = name === "kafka" || name === "kafka@3.9" ? proxiedPorts(port) : undefined;
  const secure = (): SecureDoor | undefined => {
    if (!server.secureUrl || readRecord(place)?.container) return undefined;
    return { url: server.secureUrl(port), ...login, certificates: certificatesOf(place) };
  };
  return { name, url: server.url(port), ours: true, proxied, secure, ...named(name, instanceOf(server)) };
}

/** The version that tests shall use, as in `POSTRIDER_REDIS=valkey@8`; the usual one if nothing is said. */
export function chosenBroker(kind: "rabbitmq" | "kafka" | "redis"): Broker {
  const variable = `POSTRIDER_${kind.toUpperCase()}`;
  const given = process.env[variable] || kind;
  const choices = versionsOf(kind);
  const name = choices.find((each) => each === given);
  if (name === undefined) throw new Error(`${variable} is "${given}": it may be ${choices.join(", ")}.`);
  return broker(name);
}

/** The usual one first. */
export function versionsOf(kind: "rabbitmq" | "kafka" | "redis"): readonly BrokerName[] {
  const isOne = (name: BrokerName): boolean => name === kind || name.startsWith(`${kind}@`);
  return allBrokerNames.filter((name) => isOne(name) || (kind === "redis" && name.startsWith("valkey@")));
}

function givenBroker(name: BrokerName, url: string): Broker {
  const refuse = async (): Promise<never> => {
    throw new Error(`${name} is given by ${urlVariable(name)}: not ours to kill, stop or pause.`);
  };
  return {
    name,
    url,
    ours: false,
    proxied: undefined,
    secure: () => undefined,
    start: refuse,
    stop: refuse,
    kill: refuse,
    pause: refuse,
    resume: refuse,
    up: async () => {},
    down: async () => {},
    pid: () => undefined,
    status: async () => ({ state: "given", version: undefined, pid: undefined }),
  };
}

/** With several servers started side by side, an error has to say whose it is. */
function named(name: BrokerName, instance: Instance): Instance {
  const tell = (error: unknown): never => {
    throw new Error(`${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  };
  return {
    ...instance,
    up: () => instance.up().catch(tell),
    down: (options) => instance.down(options).catch(tell),
    start: () => instance.start().catch(tell),
    stop: () => instance.stop().catch(tell),
    kill: () => instance.kill().catch(tell),
    pause: () => instance.pause().catch(tell),
    resume: () => instance.resume().catch(tell),
  };
}
