/** One adapter's connections: for commands, for publishing where that has to wait, and one for each blocking reader. */
import {
  type AdapterContext,
  LifecycleError,
  type MessagingError,
  type Runtime,
  TransportError,
  warnOfInsecurity,
} from "../../src/spi.ts";
import { checkServer } from "./checks.ts";
import { Link, type LinkContext } from "./link.ts";
import type { CheckedOptions } from "./options.ts";

export class RedisConnection {
  readonly options: CheckedOptions;
  readonly #links = new Set<Link>();
  readonly #down = new Set<Link>();
  readonly #said = new Set<string>();
  #context: AdapterContext | undefined;
  #commands: Link | undefined;
  #publishing: Link | undefined;
  #closed = false;

  constructor(options: CheckedOptions) {
    this.options = options;
  }

  get runtime(): Runtime {
    return this.#started.runtime;
  }

  get prefix(): string {
    return this.#started.prefix;
  }

  /** For everything but publishing and blocking reads. */
  get commands(): Link {
    if (this.#commands === undefined) throw notStarted();
    return this.#commands;
  }

  /** `WAIT` holds up what comes after it on its connection: settling must not be among that. */
  get publishing(): Link {
    return this.#publishing ?? this.commands;
  }

  /** Connects and checks the server. Rejects with `ERR_CONNECT`, `ERR_AUTH`, `ERR_TLS`; may then be called again. */
  async connect(context: AdapterContext): Promise<void> {
    if (this.#closed) throw closed();
    this.#context = context;
    const { target, replicas, tls, password } = this.options;
    const clear = tls === undefined && password !== undefined ? [target] : [];
    warnOfInsecurity("Redis", { tls, clear }, this.warn);
    this.#commands ??= this.openLink("commands", (redis) => checkServer(redis, target, this.warn));
    if (replicas > 0) this.#publishing ??= this.openLink("publishing");
    await this.#commands.connect();
    await this.#publishing?.connect();
    if (this.#closed) throw closed();
    this.emit({ type: "connected", adapter: "redis" });
  }

  /** A connection of its own, for what blocks. It is not connected yet. */
  openLink(purpose: string, prepare?: LinkContext["prepare"]): Link {
    if (this.#closed) throw closed();
    const link: Link = new Link({
      options: this.options,
      runtime: this.runtime,
      name: `postrider:${purpose}`,
      prepare,
      onUp: () => this.#onUp(link),
      onDown: (error) => this.#onDown(link, error),
      onRetry: (attempt, delayMs, error) => {
        // With one server, its connections are lost together: one of them speaks for all.
        if (link === this.#speaker)
          this.emit({ type: "reconnecting", adapter: "redis", attempt, delayMs, error });
      },
    });
    this.#links.add(link);
    return link;
  }

  closeLink(link: Link): void {
    link.close();
    this.#links.delete(link);
    this.#onUp(link);
  }

  readonly emit: AdapterContext["emit"] = (event) => this.#context?.emit(event);

  /** Says something once, however often the server is connected to. */
  readonly warn = (code: string, message: string): void => {
    const text = `${code} ${message}`;
    if (this.#said.has(text)) return;
    if (this.#said.size < 1_000) this.#said.add(text);
    this.emit({ type: "warning", code, message });
  };

  wrongType(key: string, type: string): TransportError {
    const text = `declaring the topic failed: key "${key}" is a ${type}, not a stream. Use another topic name or prefix, or remove that key.`;
    return new TransportError("ERR_TOPOLOGY", text);
  }

  health(): { readonly connected: boolean; readonly error?: MessagingError | undefined } {
    const links = [this.#commands, this.#publishing].filter((link) => link !== undefined);
    const down = links.find((link) => !link.up);
    return { connected: links.length > 0 && down === undefined && !this.#closed, error: down?.error };
  }

  close(): void {
    this.#closed = true;
    for (const link of this.#links) link.close();
    this.#links.clear();
    this.#down.clear();
  }

  get #started(): AdapterContext {
    if (this.#context === undefined) throw notStarted();
    return this.#context;
  }

  /** The first that went down. */
  get #speaker(): Link | undefined {
    return this.#down.values().next().value;
  }

  #onDown(link: Link, error: MessagingError): void {
    const wasWhole = this.#down.size === 0;
    this.#down.add(link);
    if (wasWhole) this.emit({ type: "disconnected", adapter: "redis", error });
  }

  #onUp(link: Link): void {
    if (this.#down.delete(link) && this.#down.size === 0 && !this.#closed)
      this.emit({ type: "connected", adapter: "redis" });
  }
}

function notStarted(): LifecycleError {
  return new LifecycleError("ERR_NOT_STARTED", "the Redis adapter is not connected");
}

function closed(): LifecycleError {
  return new LifecycleError("ERR_CLOSED", "the Redis adapter is closed; create a new one");
}
