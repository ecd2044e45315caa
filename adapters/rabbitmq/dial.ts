/** One try to connect to one node: bounded, can be called off, leaves nothing behind when it fails. */
import type { ChannelModel } from "amqplib";
import { type Runtime, ConfigurationError, loadPeer } from "../../src/spi.ts";
import { connectError } from "./errors.ts";
import type { Node, Settings } from "./options.ts";

type Client = typeof import("amqplib");

/** Loads amqplib. Rejects with `ERR_DEPENDENCY` and the install line. */
export async function loadClient(): Promise<Client> {
  const loaded = await loadPeer("amqplib", () => import("amqplib"));
  // A CommonJS module: some loaders show its exports only as `default`.
  return (loaded as Client & { readonly default?: Client }).default ?? loaded;
}

/** An open connection. */
export interface Dialled {
  readonly model: ChannelModel;
  /** Ends the socket at once, whatever is still on its way. */
  readonly destroy: () => void;
}

export interface DialContext {
  readonly client: Client;
  readonly runtime: Runtime;
  readonly settings: Settings;
  /** What the server shows this connection as, after the name from the options. */
  readonly role: string;
}

/** Rejects with `ERR_CONNECT`, `ERR_AUTH` or `ERR_TLS`, or with the reason of `stop`. */
export async function dial(context: DialContext, node: Node, stop: AbortSignal): Promise<Dialled> {
  const { client, runtime, settings } = context;
  const socket = new AbortController();
  const onStop = (): void => socket.abort(stop.reason);
  stop.throwIfAborted();
  stop.addEventListener("abort", onStop, { once: true });
  const cancelTimer = runtime.setTimer(settings.connectTimeoutMs, () =>
    socket.abort(new Error(`no answer within ${settings.connectTimeoutMs} ms`)),
  );
  try {
    const model = await client.connect(amqpUrl(node, settings), {
      ...socketOptions(context, node),
      signal: socket.signal,
    } as Parameters<Client["connect"]>[1]);
    // Without a listener for it an `error` event ends the process.
    model.on("error", () => undefined);
    corkWrites(model, runtime);
    return { model, destroy: () => socket.abort() };
  } catch (cause) {
    stop.throwIfAborted();
    const why: unknown = socket.signal.aborted ? socket.signal.reason : cause;
    throw connectError(why, node.address, vhostOf(node));
  } finally {
    cancelTimer();
    stop.removeEventListener("abort", onStop);
  }
}

function vhostOf({ vhost }: Node): string {
  return vhost === "" ? "/" : decodeURIComponent(vhost);
}

function amqpUrl(node: Node, settings: Settings): Parameters<Client["connect"]>[0] {
  return {
    protocol: node.secure ? "amqps" : "amqp",
    hostname: node.hostname,
    port: node.port,
    username: node.username,
    password: node.password,
    vhost: node.vhost,
    heartbeat: settings.heartbeatSeconds,
    frameMax: 131_072,
  };
}

function socketOptions({ client, settings, role }: DialContext, node: Node): object {
  return {
    ...(node.secure ? settings.tls : {}),
    // Nagle would hold back acks and the last publish of a burst; `corkWrites` gathers small writes instead.
    noDelay: true,
    clientProperties: { connection_name: `${settings.connectionName} ${role}`, product: "postrider" },
    ...credentials(client, settings, node),
  };
}

function credentials(client: Client, { auth }: Settings, node: Node): object {
  if (auth === "plain") return {};
  const make = client.credentials[auth];
  if (typeof make !== "function")
    throw new ConfigurationError("ERR_CONFIG", `this version of amqplib has no auth "${auth}"`);
  return { credentials: make(node.username, node.password) };
}

interface CorkableStream {
  write(chunk: unknown, ...rest: unknown[]): boolean;
  cork(): void;
  uncork(): void;
}

/**
 * amqplib writes each frame to the socket on its own: one system call per message. Gathered until the end of the turn,
 * they are one. amqplib has no option for it, so it is done to the stream it holds, where there is one that can.
 */
function corkWrites(model: ChannelModel, runtime: Runtime): void {
  const { stream } = model.connection as unknown as { readonly stream?: Partial<CorkableStream> };
  const { write, cork, uncork } = stream ?? {};
  if (typeof write !== "function" || typeof cork !== "function" || typeof uncork !== "function") return;
  const corkable = stream as CorkableStream;
  let corked = false;
  corkable.write = (chunk, ...rest) => {
    if (!corked) {
      corked = true;
      corkable.cork();
      runtime.defer(() => {
        corked = false;
        corkable.uncork();
      });
    }
    return write.call(corkable, chunk, ...rest);
  };
}
