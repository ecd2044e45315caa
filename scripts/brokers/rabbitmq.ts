import { createHash, randomBytes } from "node:crypto";
import { access, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { amqpProbe } from "./amqp.ts";
import { fetchUnpacked, unpacking, within, type Unpacked } from "./debian.ts";
import { find, type Program } from "./programs.ts";
import { certificatesOf, login, makeCertificates, openssl } from "./secure.ts";
import type { Command, Server } from "./server.ts";
import type { BrokerName, Place } from "./settings.ts";

const rabbitmqServer: Program = {
  name: "rabbitmq-server",
  // Debian's script on the PATH changes to the user `rabbitmq` and the system's folders; this is the real one.
  folders: () => ["/usr/lib/rabbitmq/bin"],
  debian: ["rabbitmq-server"],
  brew: "rabbitmq",
};
const epmd: Program = { name: "epmd", debian: ["erlang-base"], brew: "erlang" };

function configuration({ port, home }: Place): string {
  const file = (name: string): string => join(certificatesOf({ home }), name);
  return `\
loopback_users.guest = true
vm_memory_high_watermark.absolute = 1GiB
disk_free_limit.absolute = 200MB
consumer_timeout = 1800000
log.file = false
log.console = true
log.console.level = warning
load_definitions = ${join(home, "definitions.json")}
listeners.ssl.1 = 127.0.0.1:${securePort(port)}
ssl_options.cacertfile = ${file("ca.pem")}
ssl_options.certfile = ${file("server.pem")}
ssl_options.keyfile = ${file("server.key")}
ssl_options.verify = verify_none
`;
}

/** The users; with definitions the server makes none of its own. */
function definitions(): string {
  const user = (name: string, password: string, tags: string): object => {
    const salt = randomBytes(4);
    const hash = createHash("sha256").update(salt).update(password).digest();
    const hashing_algorithm = "rabbit_password_hashing_sha256";
    return { name, password_hash: Buffer.concat([salt, hash]).toString("base64"), hashing_algorithm, tags };
  };
  const all = (name: string): object => ({
    user: name,
    vhost: "/",
    configure: ".*",
    write: ".*",
    read: ".*",
  });
  return JSON.stringify({
    users: [user("guest", "guest", "administrator"), user(login.username, login.password, "")],
    vhosts: [{ name: "/" }],
    permissions: [all("guest"), all(login.username)],
  });
}

/**
 * A hop between queues that finds its target not up yet, as happens when a time-out ends while the server starts, is tried
 * again after this time. The server's own default is three minutes.
 */
const advanced = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n";

export const rabbitmq: Server = server("rabbitmq");
export const rabbitmq4: Server = server("rabbitmq@4", "trixie");
export const rabbitmq43: Server = server("rabbitmq@4.3", "forky");

/** The system's own version, or that of a Debian release. */
function server(name: BrokerName, release?: string): Server {
  // What its scripts call is taken for granted in Debian, so that no package depends on it.
  const packages = ["rabbitmq-server", "dash", "coreutils", "grep", "sed"];
  const unpacked: Unpacked | undefined = release === undefined ? undefined : { name, release, packages };
  const command = (program: Program, known: string, more: Omit<Command, "file">): Command =>
    unpacked ? within(unpacked, { file: known, ...more }) : { file: find(program), ...more };
  return {
    name,
    ports: 4,
    stopSignal: "SIGTERM",
    readyWithinMs: 90_000,
    url: (port) => `amqp://127.0.0.1:${port}`,
    secureUrl: (port) => `amqps://127.0.0.1:${securePort(port)}`,
    programs: () => [openssl, ...(unpacked ? unpacking : [rabbitmqServer, epmd])],

    prepare: async (place) => {
      const { home } = place;
      if (unpacked) await fetchUnpacked(unpacked);
      await mkdir(home, { recursive: true });
      await makeCertificates(certificatesOf(place));
      await writeFile(join(home, "rabbitmq.conf"), configuration(place));
      await writeFile(join(home, "definitions.json"), definitions());
      await writeFile(join(home, "advanced.config"), advanced);
      await writeFile(join(home, "enabled_plugins"), "[].\n");
      const cookie = join(home, ".erlang.cookie");
      // Made once: Erlang refuses a cookie that others can read.
      const exists = await access(cookie).then(
        () => true,
        () => false,
      );
      if (!exists) await writeFile(cookie, randomBytes(16).toString("hex"), { mode: 0o600 });
    },

    // The server would start an epmd by itself, as a daemon that nobody ends. Ours it finds and uses.
    helper: (place) => {
      const args = ["-address", "127.0.0.1", "-port", `${epmdPort(place)}`];
      const how = { args, env: {}, cwd: place.home };
      return { ...command(epmd, "/usr/bin/epmd", how), port: epmdPort(place) };
    },

    command: (place) => {
      const how = { args: [], env: environment(place), cwd: place.home };
      return command(rabbitmqServer, "/usr/lib/rabbitmq/bin/rabbitmq-server", how);
    },

    probe: amqpProbe,
  };
}

function securePort(port: number): number {
  return port + 3;
}

function epmdPort({ port }: Place): number {
  return port + 2;
}

/** Every path and port is named: each one left out falls back to the system's own RabbitMQ. */
function environment(place: Place): Record<string, string> {
  const { home, port } = place;
  return {
    PATH: process.env["PATH"] ?? "",
    LANG: "C.UTF-8",
    HOME: home, // of .erlang.cookie
    ERL_EPMD_ADDRESS: "127.0.0.1",
    ERL_EPMD_PORT: `${epmdPort(place)}`,
    ERL_CRASH_DUMP: join(home, "erl_crash.dump"),
    RABBITMQ_NODENAME: "postrider@localhost",
    RABBITMQ_NODE_IP_ADDRESS: "127.0.0.1",
    RABBITMQ_NODE_PORT: `${port}`,
    RABBITMQ_DIST_PORT: `${port + 1}`,
    RABBITMQ_MNESIA_BASE: join(home, "data"),
    RABBITMQ_LOG_BASE: join(home, "log"),
    RABBITMQ_PID_FILE: join(home, "rabbitmq.pid"),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(home, "enabled_plugins"),
    RABBITMQ_GENERATED_CONFIG_DIR: join(home, "generated"),
    RABBITMQ_CONFIG_FILE: join(home, "rabbitmq.conf"),
    RABBITMQ_CONFIG_FILES: join(home, "conf.d"),
    RABBITMQ_ADVANCED_CONFIG_FILE: join(home, "advanced.config"),
    RABBITMQ_CONF_ENV_FILE: "/dev/null",
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "-kernel inet_dist_use_interface {127,0,0,1}",
    // Makes the script replace itself by the server, so that the pid we know is the server's own.
    RUNNING_UNDER_SYSTEMD: "true",
  };
}
