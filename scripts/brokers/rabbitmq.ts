import { randomBytes } from "node:crypto";
import { access, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { amqpProbe } from "./amqp.ts";
import { find, type Program } from "./programs.ts";
import type { Server } from "./server.ts";
import type { Place } from "./settings.ts";

const rabbitmqServer: Program = {
  name: "rabbitmq-server",
  // Debian's script on the PATH changes to the user `rabbitmq` and the system's folders; this is the real one.
  folders: () => ["/usr/lib/rabbitmq/bin"],
  debian: ["rabbitmq-server"],
  brew: "rabbitmq",
};
const epmd: Program = { name: "epmd", debian: ["erlang-base"], brew: "erlang" };

const configuration = `\
loopback_users.guest = true
vm_memory_high_watermark.absolute = 1GiB
disk_free_limit.absolute = 200MB
consumer_timeout = 1800000
log.file = false
log.console = true
log.console.level = warning
`;

/**
 * A hop between queues that finds its target not up yet, as happens when a time-out ends while the server starts, is tried
 * again after this time. The server's own default is three minutes.
 */
const advanced = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n";

export const rabbitmq: Server = {
  name: "rabbitmq",
  ports: 3,
  stopSignal: "SIGTERM",
  readyWithinMs: 90_000,
  url: (port) => `amqp://127.0.0.1:${port}`,
  programs: () => [rabbitmqServer, epmd],

  prepare: async ({ home }) => {
    await mkdir(home, { recursive: true });
    await writeFile(join(home, "rabbitmq.conf"), configuration);
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
  helper: (place) => ({
    file: find(epmd),
    args: ["-address", "127.0.0.1", "-port", `${epmdPort(place)}`],
    env: {},
    cwd: place.home,
    port: epmdPort(place),
  }),

  command: (place) => ({ file: find(rabbitmqServer), args: [], env: environment(place), cwd: place.home }),

  probe: amqpProbe,
};

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
