import { type Codec, bytes, json } from "./codec.ts";
import { ConfigurationError } from "./errors.ts";
import { isIdText } from "./ids.ts";
import { show } from "./inspect.ts";
import { checkName } from "./names.ts";
import { checkFunction, checkInteger, checkKeys } from "./options.ts";
import type { InputOf, OutputOf, StandardSchema } from "./schema.ts";

/** How a topic is described. */
export interface TopicOptions<Payload> {
  /**
   * Ordering key of a payload: messages of one key are handled in the order they were sent by consumers with
   * `order: "key"`. Return `undefined` for a message without a key.
   */
  readonly key?: ((payload: Payload) => string | undefined) | undefined;
  /** Parallelism of ordered consumption, 1..1024. Default 8 with a key, else 1. Changing it moves keys to other partitions. */
  readonly partitions?: number | undefined;
  /** How payloads become bytes. Default `"json"`. */
  readonly codec?: "json" | "bytes" | Codec | undefined;
}

declare const types: unique symbol;

/**
 * A topic: the contract between those who publish and those who consume. Made by `defineTopic`, shared by both.
 * `Input` is what publishers give, `Output` what handlers get.
 */
export interface Topic<Input = unknown, Output = Input, Keyed extends boolean = boolean> {
  readonly name: string;
  readonly schema: StandardSchema | undefined;
  readonly key: ((payload: never) => string | undefined) | undefined;
  readonly partitions: number;
  readonly codec: Codec;
  /** Carries the type parameters; never present at run time. */
  readonly [types]?: { readonly input: Input; readonly output: Output; readonly keyed: Keyed };
}

type WithKey<Options extends TopicOptions<never>> = Options & { readonly key: NonNullable<Options["key"]> };

/**
 * Describes a topic. Pure: nothing happens on the broker.
 *
 * With a `schema` (any Standard Schema library) payloads are validated when published and when consumed. The wire
 * carries what the publisher gave; the schema's transforms and defaults are what the handler sees.
 *
 * Throws `ConfigurationError` `ERR_CONFIG` on a bad name or option.
 *
 * @example
 * const OrderPlaced = defineTopic("order.placed", {
 *   schema: z.object({ orderId: z.string(), total: z.number() }),
 *   key: (order) => order.orderId,
 * });
 * @example
 * const Ping = defineTopic<{ at: string }>("ping");
 */
export function defineTopic<S extends StandardSchema>(
  name: string,
  options: WithKey<TopicOptions<OutputOf<S>>> & { readonly schema: S },
): Topic<InputOf<S>, OutputOf<S>, true>;
export function defineTopic<S extends StandardSchema>(
  name: string,
  options: TopicOptions<OutputOf<S>> & { readonly schema: S; readonly key?: undefined },
): Topic<InputOf<S>, OutputOf<S>, false>;
export function defineTopic<Payload = unknown>(
  name: string,
  options: WithKey<TopicOptions<Payload>>,
): Topic<Payload, Payload, true>;
export function defineTopic<Payload = unknown>(
  name: string,
  options?: TopicOptions<Payload> & { readonly key?: undefined },
): Topic<Payload, Payload, false>;
export function defineTopic(
  name: string,
  options: TopicOptions<never> & { readonly schema?: StandardSchema } = {},
): Topic {
  checkName("topic", name);
  const where = `defineTopic("${name}")`;
  checkKeys(where, options, ["schema", "key", "partitions", "codec"]);
  if (options.key !== undefined) checkFunction(`${where} key`, options.key);
  if (
    options.schema !== undefined &&
    typeof (options.schema as StandardSchema | null)?.["~standard"]?.validate !== "function"
  ) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${where} schema is not a Standard Schema (zod 3.24+, valibot 1+, arktype 2+ and others are)`,
    );
  }
  const partitions = options.partitions ?? (options.key === undefined ? 1 : 8);
  return Object.freeze({
    name,
    schema: options.schema,
    key: options.key,
    partitions: checkInteger(`${where} partitions`, partitions, 1, 1024),
    codec: codecOf(where, options.codec === undefined ? "json" : options.codec),
  });
}

/** Throws `ERR_CONFIG` unless `topic` is what `defineTopic` makes. */
export function checkTopic(where: string, topic: unknown): asserts topic is Topic {
  const { name, codec } = (typeof topic === "object" && topic !== null ? topic : {}) as Partial<Topic>;
  if (typeof name === "string" && typeof codec?.encode === "function") return;
  throw new ConfigurationError(
    "ERR_CONFIG",
    `${where} takes a topic made by defineTopic("…"), got ${show(topic)}`,
  );
}

function codecOf(where: string, codec: unknown): Codec {
  if (codec === "json") return json;
  if (codec === "bytes") return bytes;
  const { contentType, encode, decode } = (codec ?? {}) as Partial<Codec>;
  if (
    typeof contentType !== "string" ||
    !isIdText(contentType) ||
    typeof encode !== "function" ||
    typeof decode !== "function"
  ) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${where} codec must be "json", "bytes" or an object with contentType, encode and decode`,
    );
  }
  return codec as Codec;
}
