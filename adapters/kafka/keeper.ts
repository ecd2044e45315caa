/** Keeps the control connection: notices when the broker does not answer, says so, and mends it. */
import {
  type AdapterContext,
  type Cancel,
  LifecycleError,
  type MessagingError,
  jittered,
  retryLoop,
} from "../../src/spi.ts";
import { type Control, openControl } from "./control.ts";
import type { ClientSetup } from "./client.ts";
import { kafkaError } from "./errors.ts";

/** How often a quiet connection is tried; also keeps the broker from closing it as idle. */
const pingMs = 5_000;
const pingTimeoutMs = 5_000;
const adapter = "kafka";

export class ControlKeeper {
  readonly #setup: ClientSetup;
  readonly #context: AdapterContext;
  readonly #ended: AbortSignal;
  #control: Control | undefined;
  #connected = false;
  #error: MessagingError | undefined;
  #cancelPing: Cancel = () => undefined;
  #checking = false;

  /** Works until `ended` aborts. */
  constructor(setup: ClientSetup, context: AdapterContext, ended: AbortSignal) {
    this.#setup = { ...setup, onSocketLost: () => this.#checkIn(0) };
    this.#context = context;
    this.#ended = ended;
    ended.addEventListener("abort", () => this.#cancelPing(), { once: true });
  }

  /** The present connection; after a loss the old one, whose calls fail, until there is a new one. */
  get control(): Control | undefined {
    return this.#control;
  }

  health(): { readonly connected: boolean; readonly error?: MessagingError | undefined } {
    return { connected: this.#connected && !this.#ended.aborted, error: this.#error };
  }

  /** Connects for the first time. Rejects with the library's error. */
  async start(): Promise<void> {
    await this.#open();
    this.#context.emit({ type: "connected", adapter });
    this.#checkIn(pingMs);
  }

  async close(): Promise<void> {
    this.#connected = false;
    await this.#control?.close();
  }

  async #open(): Promise<void> {
    const at = this.#setup.options.brokers.join(",");
    const control = await openControl(this.#setup).catch((cause: unknown) => {
      throw kafkaError(`cannot connect to kafka at ${at}`, cause, "ERR_CONNECT");
    });
    if (this.#ended.aborted) {
      await control.close();
      throw new LifecycleError("ERR_CLOSED", "the kafka adapter is closed");
    }
    this.#control = control;
    this.#connected = true;
    this.#error = undefined;
  }

  /** One check at a time; an earlier one replaces a later. */
  #checkIn(ms: number): void {
    if (this.#ended.aborted || this.#checking || !this.#connected) return;
    this.#cancelPing();
    this.#cancelPing = this.#context.runtime.setTimer(ms, () => void this.#check(), { unref: true });
  }

  async #check(): Promise<void> {
    this.#checking = true;
    try {
      await this.#ping();
    } catch (cause) {
      await this.#mend(kafkaError("the connection to kafka was lost", cause, "ERR_CONNECTION_LOST"));
    } finally {
      this.#checking = false;
      this.#checkIn(pingMs);
    }
  }

  async #ping(): Promise<void> {
    const late = Promise.withResolvers<never>();
    const cancel = this.#context.runtime.setTimer(pingTimeoutMs, () =>
      late.reject(new Error(`no broker answered within ${pingTimeoutMs} ms`)),
    );
    try {
      await Promise.race([this.#control?.ping(), late.promise]);
    } finally {
      cancel();
    }
  }

  /** Tries until the broker answers or the adapter closes: even wrong credentials may be mended on the broker's side. */
  async #mend(error: MessagingError): Promise<void> {
    if (this.#ended.aborted) return;
    const { runtime } = this.#context;
    this.#connected = false;
    this.#error = error;
    this.#context.emit({ type: "disconnected", adapter, error });
    void this.#control?.close();
    const backoff = jittered(runtime, "reconnect", 100, 5_000);
    try {
      await retryLoop(
        (ms) => runtime.sleep(ms, this.#ended),
        () => this.#open(),
        (cause, attempt) => {
          if (this.#ended.aborted) return undefined;
          const delayMs = backoff(attempt);
          this.#error = kafkaError("the connection to kafka was lost", cause, "ERR_CONNECTION_LOST");
          this.#context.emit({ type: "reconnecting", adapter, attempt, delayMs, error: this.#error });
          return delayMs;
        },
      );
      this.#context.emit({ type: "connected", adapter });
    } catch {
      // Closed meanwhile: there is nobody left to tell.
    }
  }
}
