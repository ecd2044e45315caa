import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fetchKafka, kafkaJars, maven } from "./kafka-jars.ts";
import { talk } from "./probe.ts";
import { find, type Program } from "./programs.ts";
import { run } from "./run.ts";
import { certificatesOf, login, makeCertificates, openssl } from "./secure.ts";
import type { Server } from "./server.ts";
import type { BrokerName, Place } from "./settings.ts";

/** Where a fault proxy of a test comes in: it listens on `advertised` and forwards to `listen`. */
export type ProxiedPorts = { readonly listen: number; readonly advertised: number };

export function proxiedPorts(port: number): ProxiedPorts {
  return { listen: port + 2, advertised: port + 3 };
}

export const kafka: Server = kafkaServer("kafka", "4.3.1", "-Dlog4j2.level=INFO");
export const kafka39: Server = kafkaServer(
  "kafka@3.9",
  "3.9.2",
  "-Dlog4j.configuration=file:log4j.properties",
);

const java: Program = {
  name: "java",
  folders: () => (process.env["JAVA_HOME"] ? [join(process.env["JAVA_HOME"], "bin")] : []),
  debian: ["openjdk-17-jre-headless", "openjdk-21-jre-headless"],
  brew: "openjdk@21",
  accepts: (file) => javaVersion(file) >= 17,
};

// Any 16 bytes in base64url. Fixed, because nothing here ever meets another cluster.
const clusterId = "MkU3OEVBNTcwNTJENDM2Qk";
const jvm = ["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

function kafkaServer(name: BrokerName, version: string, logging: string): Server {
  return {
    name,
    ports: 3,
    stopSignal: "SIGTERM",
    // A killed one reads all its partitions again: 40 s for 500 on a machine that has other things to do.
    readyWithinMs: 150_000,
    url: (port) => `kafka://127.0.0.1:${port}`,
    secureUrl: (port) => `kafka://127.0.0.1:${securePort(port)}`,
    programs: () => [openssl, java, ...(existsSync(kafkaJars(version)) ? [] : [maven])],

    prepare: async (place) => {
      const { home } = place;
      await fetchKafka(name, version);
      await mkdir(home, { recursive: true });
      await makeCertificates(certificatesOf(place));
      await writeFile(join(home, "server.properties"), properties(place));
      await writeFile(join(home, "log4j.properties"), log4jProperties);
      if (existsSync(join(home, "data"))) return;
      // Formatted aside and renamed: an interrupted format must not look like a log folder.
      const fresh = join(home, "new");
      await rm(fresh, { recursive: true, force: true });
      await mkdir(fresh);
      const tool = [...jvm, "-cp", join(kafkaJars(version), "*"), "kafka.tools.StorageTool"];
      const format = ["format", "-t", clusterId, "-c", join(home, "server.properties")];
      const user = `SCRAM-SHA-512=[name=${login.username},password=${login.password}]`;
      await run(find(java), [...tool, ...format, "--add-scram", user], {
        cwd: fresh,
        env: environment,
        timeoutMs: 60_000,
      });
      await rename(join(fresh, "data"), join(home, "data"));
      await rm(fresh, { recursive: true });
    },

    command: ({ home }) => ({
      file: find(java),
      args: [...jvm, logging, "-cp", join(kafkaJars(version), "*"), "kafka.Kafka", "server.properties"],
      env: environment,
      cwd: home,
    }),

    // The protocol never tells the broker's version; the jars are pinned to it.
    probe: (port) => metadataProbe(port).then(() => version),
  };
}

const environment = { PATH: process.env["PATH"] ?? "", LC_ALL: "C.UTF-8" };

function securePort(port: number): number {
  return port + 4;
}

function properties({ home, port }: Place): string {
  const { listen, advertised } = proxiedPorts(port);
  const certificates = certificatesOf({ home });
  const scram = "org.apache.kafka.common.security.scram.ScramLoginModule";
  const controller = port + 1;
  return `\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:${controller}
listeners=PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controller},PROXIED://127.0.0.1:${listen},SECURE://127.0.0.1:${securePort(port)}
advertised.listeners=PLAINTEXT://127.0.0.1:${port},PROXIED://127.0.0.1:${advertised},SECURE://127.0.0.1:${securePort(port)}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT,SECURE:SASL_SSL
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config=${scram} required;
ssl.keystore.type=PEM
ssl.keystore.location=${join(certificates, "server-chain.pem")}
inter.broker.listener.name=PLAINTEXT
# Relative to the working folder.
log.dirs=data
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
# Joins of a group settle at once, instead of after 3 s.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
# A killed broker waits for its own old session to expire: 3 s with these two, 11 s without.
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
# The default of 128 MiB does not fit into the small heap.
log.cleaner.dedupe.buffer.size=2097152
`;
}

// Only the 3.9 line reads it; the 4.x line has a usable default.
const log4jProperties = `\
log4j.rootLogger=INFO, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss.SSS} [%t] %-5p %c{1} - %m%n
`;

/** Metadata for no topic. An open port is not enough: a starting broker may not be in its own list yet. */
function metadataProbe(port: number): Promise<string> {
  // size | api key 3 | version 1 | correlation id 1 | client id "" | no topics
  const request = Buffer.from([0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
  // size | correlation id | number of brokers
  return talk(port, request, (received) => {
    if (received.length < 12) return undefined;
    if (received.readInt32BE(8) < 1) throw new Error("the broker is not registered yet");
    return "ready";
  });
}

const javaVersions = new Map<string, number>();

function javaVersion(file: string): number {
  // Wanted several times in one start, and a Java program takes its time to answer.
  const version = javaVersions.get(file) ?? askJavaVersion(file);
  javaVersions.set(file, version);
  return version;
}

function askJavaVersion(file: string): number {
  try {
    // Written to stderr, so both streams are read.
    const text = execFileSync("/bin/sh", ["-c", '"$0" -version 2>&1', file], {
      encoding: "utf8",
      timeout: 20_000,
    });
    return Number(/version "(\d+)/.exec(text)?.[1] ?? 0);
  } catch {
    return 0;
  }
}
