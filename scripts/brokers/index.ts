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
import { rabbitmq } from "./rabbitmq.ts";
import { redis } from "./redis.ts";
import type { Server } from "./server.ts";
import { givenUrl, placeOf, urlVariable, type BrokerName } from "./settings.ts";

export { allBrokerNames, brokerNames } from "./settings.ts";
export type { BrokerName };

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
  kafka,
  "kafka@3.9": kafka39,
  redis,
  postgres,
  mariadb,
};

/** The instance of that name; reads the environment now, touches nothing yet. */
export function broker(name: BrokerName): Broker {
  const given = givenUrl(name);
  if (given) return givenBroker(name, given);
  const server = servers[name];
  const { port } = placeOf(name);
  const proxied = name === "kafka" || name === "kafka@3.9" ? proxiedPorts(port) : undefined;
  return { name, url: server.url(port), ours: true, proxied, ...named(name, instanceOf(server)) };
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
