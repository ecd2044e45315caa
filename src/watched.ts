/**
 * A subscription that cannot die in silence. Adapters mend what they know of; this is for what nobody has noticed: a reading
 * loop that hangs while the connection looks well. It is closed, what it had handed over is given up, and another one begins.
 */
import type { Adapter, DeliverySink, SubscribeSpec, Subscription, SubscriptionHealth } from "./adapter.ts";
import type { Cancel, Runtime } from "./clock.ts";
import { LifecycleError, MessagingError, TransportError } from "./errors.ts";
import type { EventListener } from "./events.ts";
import { textOf } from "./inspect.ts";
import { jittered, retryLoop } from "./retry/loop.ts";
import { resolvesWithin } from "./within.ts";

export interface WatchContext {
  readonly adapter: Adapter;
  readonly runtime: Runtime;
  readonly spec: SubscribeSpec;
  readonly sink: DeliverySink;
  readonly emit: EventListener;
  /** Nothing that was handed over is ours any more. */
  readonly onRenewed: () => void;
}

/** Silent for longer than this: not ready. Found out, and begun anew, within a look more: less than 30 seconds in all. */
const silentLimitMs = 20_000;
const lookMs = 5_000;
/** How long the end of a subscription that hangs is waited for. */
const closeMs = 2_000;

/** Subscribes. Resolves and rejects like `Adapter.subscribe`; from then on there is always a subscription, or one being made. */
export async function subscribeWatched(context: WatchContext): Promise<Subscription> {
  const watched = new WatchedSubscription(context);
  await watched.start();
  return watched;
}

class WatchedSubscription implements Subscription {
  readonly #context: WatchContext;
  readonly #stopping = new AbortController();
  #current: Subscription | undefined;
  /** Rises with each subscription: what an earlier one still has to say is not heard. */
  #epoch = 0;
  #paused = false;
  /** Why there is none. */
  #error: MessagingError | undefined;
  #cancelLook: Cancel = () => undefined;

  constructor(context: WatchContext) {
    this.#context = context;
  }

  async start(): Promise<void> {
    await this.#open();
    this.#scheduleLook();
  }

  // Without a subscription nothing is ours; a later one knows nothing of what an earlier one handed over.
  ack: Subscription["ack"] = async (deliveries) =>
    (await this.#current?.ack(deliveries)) ?? allStale(deliveries);
  defer: Subscription["defer"] = async (...given) => (await this.#current?.defer(...given)) ?? stale;
  deadLetter: Subscription["deadLetter"] = async (...given) =>
    (await this.#current?.deadLetter(...given)) ?? stale;
  release: Subscription["release"] = async (deliveries) =>
    (await this.#current?.release(deliveries)) ?? allStale(deliveries);
  extend: Subscription["extend"] = async (deliveries) =>
    (await this.#current?.extend(deliveries)) ?? allStale(deliveries);

  pause(): void {
    this.#paused = true;
    this.#current?.pause();
  }

  resume(): void {
    this.#paused = false;
    this.#current?.resume();
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new LifecycleError("ERR_DRAINING", "the consumer is closing"));
    this.#cancelLook();
    if (this.#current === undefined) this.#epoch += 1;
    await this.#current?.stop();
  }

  async close(): Promise<void> {
    this.#stopping.abort(new LifecycleError("ERR_DRAINING", "the consumer is closing"));
    this.#cancelLook();
    await this.#current?.close();
  }

  health(): SubscriptionHealth {
    const health = this.#current?.health();
    if (health === undefined) return { consuming: false, error: this.#error, silentMs: 0 };
    if (!health.consuming || health.silentMs <= silentLimitMs) return health;
    return { ...health, consuming: false, error: this.#silence(health.silentMs) };
  }

  #scheduleLook(): void {
    const { runtime } = this.#context;
    const since = runtime.monotonic();
    const look = (): void => {
      // To a process that stood still itself everything seems to have been silent.
      const stoodStill = runtime.monotonic() - since > 2 * lookMs;
      const { consuming = false, silentMs = 0 } = this.#current?.health() ?? {};
      if (consuming && silentMs > silentLimitMs && !stoodStill) void this.#renew(silentMs);
      this.#scheduleLook();
    };
    this.#cancelLook = runtime.setTimer(lookMs, look, { unref: true });
  }

  async #renew(silentMs: number): Promise<void> {
    const { runtime, spec, emit, onRenewed } = this.#context;
    const old = this.#current as Subscription;
    const error = this.#silence(silentMs);
    this.#current = undefined;
    this.#epoch += 1;
    this.#error = error;
    emit({ type: "warning", code: `SILENT ${spec.topic.name}--${spec.group}`, message: error.message });
    onRenewed();
    // What hangs may not end either; the broker gives what it held to others when it notices.
    await resolvesWithin(
      runtime,
      closeMs,
      // Its end was the aim; a failure changes nothing.
      old.close().catch(() => undefined),
    );
    const backoff = jittered(runtime, "subscribe", 100, 5_000);
    await retryLoop(
      (ms) => runtime.sleep(ms, this.#stopping.signal),
      () => this.#open(),
      (cause, attempt) => {
        this.#error = subscribeError(cause);
        return this.#stopping.signal.aborted ? undefined : backoff(attempt);
      },
    ).catch(() => undefined); // Only closing ends the loop.
  }

  async #open(): Promise<void> {
    const { adapter, spec, sink } = this.#context;
    this.#stopping.signal.throwIfAborted();
    this.#epoch += 1;
    const epoch = this.#epoch;
    const isCurrent = (): boolean => epoch === this.#epoch;
    const subscription = await adapter.subscribe(spec, {
      deliver: (deliveries) => (isCurrent() ? sink.deliver(deliveries) : undefined),
      lost: (deliveries) => (isCurrent() ? sink.lost(deliveries) : undefined),
    });
    // Stopped meanwhile: nobody else knows of it.
    if (!isCurrent() || this.#stopping.signal.aborted) return subscription.close();
    this.#current = subscription;
    this.#error = undefined;
    if (this.#paused) subscription.pause();
  }

  #silence(silentMs: number): MessagingError {
    const { topic, group } = this.#context.spec;
    const seconds = Math.round(silentMs / 1_000);
    return new TransportError(
      "ERR_CONNECTION_LOST",
      `the consumer of topic "${topic.name}" in group "${group}" gave no sign of life for ${seconds} s and is started anew; what it held comes again`,
    );
  }
}

const stale = { status: "stale" } as const;

function allStale(deliveries: readonly unknown[]): (typeof stale)[] {
  return deliveries.map(() => stale);
}

/** Adapters reject with the library's errors; one that does not is said all the same. */
function subscribeError(cause: unknown): MessagingError {
  if (MessagingError.is(cause)) return cause;
  return new TransportError("ERR_CONNECT", `cannot subscribe: ${textOf(cause)}`, { cause });
}
