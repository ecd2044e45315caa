/** `bus.consume`: its options, their checks, and how they become a running consumer. */
import type { Adapter } from "./adapter.ts";
import { capabilityError } from "./capabilities.ts";
import type { HandlerContext } from "./context.ts";
import type { DispatchContext } from "./dispatch.ts";
import { type Duration, toMs } from "./duration.ts";
import { ConfigurationError } from "./errors.ts";
import { show } from "./inspect.ts";
import { checkName } from "./names.ts";
import { checkFunction, checkInteger, checkKeys, checkOneOf } from "./options.ts";
import { type Directive, type Outcome, isDirective } from "./outcome.ts";
import { type Middleware, compose } from "./pipeline.ts";
import { type RetryOptions, type RetryPolicy, createRetryPolicy, longestDelayMs } from "./retry/policy.ts";
import type { Store } from "./store.ts";
import type { Topic } from "./topic.ts";

/** How effects are protected against a second delivery. */
export type Once = "transaction" | "lease" | false;

/** `ctx.tx` by mode. */
type TxOf<Tx, Mode extends Once> = [Mode] extends ["transaction"] ? Tx : undefined;

/**
 * Handles one message. Return: ack. Throw: retry by policy. Return `retryAfter(…)`, `deadLetter(…)` or `discard(…)` to
 * say otherwise; any other result is ignored.
 */
export type Handler<Payload, Tx, Mode extends Once = Once> = (
  payload: Payload,
  context: HandlerContext<Payload, TxOf<Tx, Mode>>,
) => unknown;

/** Options of `bus.consume`. */
export type ConsumeOptions<
  Payload = unknown,
  Tx = unknown,
  Keyed extends boolean = boolean,
  Mode extends Once = Once,
> = HandlingOptions<Payload, Tx, Mode> & (UnorderedOptions | (Keyed extends false ? never : OrderedOptions));

interface UnorderedOptions {
  /** Messages come in any order. The default. */
  readonly order?: "none" | undefined;
  /** `"block"` needs `order: "key"`. */
  readonly onExhausted?: "deadLetter" | undefined;
}

interface OrderedOptions {
  /**
   * Messages of one key one after another in the order they were sent, also under retry and over several instances. Needs a
   * topic with a key.
   */
  readonly order: "key";
  /**
   * What becomes of a message that is out of attempts or too old. `"deadLetter"`: it leaves, and the next of its key is
   * handled. `"block"`: its key waits for it, over restarts too, and other keys go on until the window (`prefetch`) is full of
   * what waits. It is tried on by the backoff, at least a second apart, until the handler succeeds, throws `NonRetryableError`,
   * or returns `deadLetter(…)` or `discard(…)`; each failure is a `blocked` event, and the check `lanes <topic>--<group>` of
   * `bus.health()` is down meanwhile. A message without a key is dead-lettered. Default `"deadLetter"`.
   */
  readonly onExhausted?: "deadLetter" | "block" | undefined;
}

interface HandlingOptions<Payload, Tx, Mode extends Once> {
  /** The consumer group. Consumers of one group share the messages, each group gets them all. */
  readonly group: string;
  /** Handlers at once, 1..10000. Default 16. */
  readonly concurrency?: number | undefined;
  /**
   * Most deliveries taken from the broker and not yet settled, 1..65535. Default: twice the concurrency, four times
   * with `order: "key"`.
   */
  readonly prefetch?: number | undefined;
  /** Longest run of one attempt; then its signal aborts and it counts as failed. Default: none. */
  readonly timeout?: Duration | undefined;
  readonly retry?: RetryOptions | undefined;
  /**
   * `"transaction"`: inbox row, effects through `ctx.tx` and `ctx.publish` commit together. `"lease"`: a claim in the store
   * while the handler runs, for effects elsewhere. `false`: nothing but the broker's at-least-once. Default: `"lease"` with
   * a store, `false` without.
   */
  readonly once?: Mode | undefined;
  /** Retries below this wait in process, longer ones with the broker. Default `"1s"`. */
  readonly holdBelow?: Duration | undefined;
  /** How long a delivery, and an inbox claim, outlive a process that died. Renewed while the handler runs. Default `"30s"`. */
  readonly lease?: Duration | undefined;
  /** Around this consumer's handler, outermost first, inside the bus's own. */
  readonly use?: readonly Middleware<HandlerContext<Payload, TxOf<Tx, Mode>>>[] | undefined;
}

/** `ConsumeOptions` checked and with defaults. */
export interface CheckedConsumeOptions {
  readonly group: string;
  readonly concurrency: number;
  readonly prefetch: number;
  readonly order: "none" | "key";
  readonly onExhausted: "deadLetter" | "block";
  readonly timeoutMs: number | undefined;
  readonly policy: RetryPolicy;
  readonly once: Once;
  readonly holdBelowMs: number;
  readonly leaseMs: number;
  readonly crashLimit: number;
  readonly run: DispatchContext["run"];
}

const knownOptions = [
  "group",
  "concurrency",
  "prefetch",
  "order",
  "onExhausted",
  "timeout",
  "retry",
  "once",
  "holdBelow",
  "lease",
  "use",
] as const satisfies readonly (keyof ConsumeOptions)[];

type AnyContext = HandlerContext<unknown, unknown>;
export type AnyMiddleware = Middleware<AnyContext>;

/** Throws `ERR_CONFIG` on a wrong option, `ERR_CAPABILITY` on what adapter or store cannot do. */
export function checkConsumeOptions(
  topic: Topic,
  options: ConsumeOptions,
  handler: unknown,
  bus: {
    readonly adapter: Adapter;
    readonly store: Store | undefined;
    readonly middleware: readonly AnyMiddleware[];
  },
): CheckedConsumeOptions {
  const where = `consume("${topic.name}")`;
  checkKeys(where, options, knownOptions);
  checkName("group", options.group);
  checkHandler(where, handler);
  const order = checkOneOf(`${where} order`, options.order ?? "none", ["none", "key"]);
  checkOrder(where, topic, order, bus.adapter);
  const concurrency = checkInteger(`${where} concurrency`, options.concurrency ?? 16, 1, 10_000);
  const window = Math.min(65_535, concurrency * (order === "key" ? 4 : 2));
  const policy = createRetryPolicy(options.retry);
  const longest = longestDelayMs(policy);
  const { name, capabilities } = bus.adapter;
  if (longest > capabilities.maxDelayMs) {
    const wanted = `cannot delay a retry by ${longest} ms, its longest delay is ${capabilities.maxDelayMs} ms`;
    throw capabilityError(name, wanted, "Give retry.backoff a lower max.");
  }
  const use = checkMiddleware(where, options.use ?? []);
  return {
    group: options.group,
    concurrency,
    prefetch: checkInteger(`${where} prefetch`, options.prefetch ?? window, 1, 65_535),
    order,
    onExhausted: checkOnExhausted(where, options.onExhausted ?? "deadLetter", order),
    timeoutMs:
      options.timeout === undefined ? undefined : toMs(options.timeout, `${where} timeout`, { min: 1 }),
    policy,
    once: checkOnce(where, options.once, bus.store),
    holdBelowMs: toMs(options.holdBelow ?? "1s", `${where} holdBelow`, { max: 60_000 }),
    leaseMs: toMs(options.lease ?? "30s", `${where} lease`, { min: 1_000, max: 43_200_000 }),
    crashLimit: Math.max(20, 2 * policy.maxAttempts),
    run: compose([...bus.middleware, ...use], (context) =>
      runHandler(handler as Handler<unknown, unknown>, context),
    ),
  };
}

function checkMiddleware(where: string, use: unknown): readonly AnyMiddleware[] {
  if (!Array.isArray(use)) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${where} use must be an array of functions, got ${show(use)}`,
    );
  }
  use.forEach((middleware, i) => checkFunction(`${where} use[${i}]`, middleware));
  return use as readonly AnyMiddleware[];
}

/** A generator function gives an iterator that nobody runs: its message would be acked unhandled. */
function checkHandler(where: string, handler: unknown): void {
  checkFunction(`${where} handler`, handler);
  const kind = Object.prototype.toString.call(handler);
  if (!kind.includes("Generator")) return;
  throw new ConfigurationError(
    "ERR_CONFIG",
    `${where} handler must not be a generator function; nothing would run it`,
  );
}

function checkOrder(where: string, topic: Topic, order: "none" | "key", adapter: Adapter): void {
  if (order === "none") return;
  if (topic.key === undefined) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${where} order "key" needs a topic with a key; give defineTopic("${topic.name}") a key function`,
    );
  }
  if (adapter.capabilities.ordering === "key") return;
  throw capabilityError(adapter.name, "does not keep order per key", `Use order "none".`);
}

function checkOnExhausted(
  where: string,
  onExhausted: "deadLetter" | "block",
  order: "none" | "key",
): "deadLetter" | "block" {
  checkOneOf(`${where} onExhausted`, onExhausted, ["deadLetter", "block"]);
  if (onExhausted === "deadLetter" || order === "key") return onExhausted;
  throw new ConfigurationError(
    "ERR_CONFIG",
    `${where} onExhausted "block" needs order "key"; without order there is nothing to wait for`,
  );
}

function checkOnce(where: string, once: Once | undefined, store: Store | undefined): Once {
  const mode = checkOneOf(`${where} once`, once ?? (store === undefined ? false : "lease"), [
    "transaction",
    "lease",
    false,
  ]);
  if (mode !== false && store === undefined) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${where} once "${mode}" needs a store, for example createBus({ store: postgres({ pool }) })`,
    );
  }
  return mode;
}

async function runHandler(handler: Handler<unknown, unknown>, context: AnyContext): Promise<Outcome> {
  const result = await handler(context.message.payload, context as HandlerContext<unknown, never>);
  return isDirective(result) ? outcomeOf(result) : { kind: "ack" };
}

function outcomeOf({ kind, reason = "", delayMs = 0 }: Directive): Outcome {
  switch (kind) {
    case "retryAfter":
      return {
        kind: "retry",
        delayMs,
        error: new Error(`the handler asked to be tried again after ${delayMs} ms`),
      };
    case "deadLetter":
      return { kind: "deadLetter", reason, error: { name: "DeadLetter", message: reason } };
    case "discard":
      return { kind: "discard", reason };
  }
}
