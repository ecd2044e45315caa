/**
 * Lua on the server: what has to happen in one step. Scripts are called by their hash; a server that does not know one
 * yet has not run it, and is given the text.
 */
import { createHash } from "node:crypto";
import type { Redis } from "ioredis";
import { replyCode } from "./errors.ts";
import type { Link } from "./link.ts";

export interface Script {
  /** What it does, for messages: "acknowledging". */
  readonly what: string;
  readonly text: string;
  readonly hash: string;
}

export type Argument = string | number | Buffer;

/** A script from its text. */
export function script(what: string, text: string): Script {
  return { what, text, hash: createHash("sha1").update(text).digest("hex") };
}

/** Runs a script. Bulk replies are `Buffer`s. Rejects with `RequestError`. */
export function run(
  link: Link,
  { what, text, hash }: Script,
  keys: readonly string[],
  args: readonly Argument[],
): Promise<unknown> {
  return link.request(what, async (redis: Redis) => {
    try {
      return await redis.callBuffer("EVALSHA", [hash, keys.length, ...keys, ...args]);
    } catch (error) {
      if (replyCode(error) !== "NOSCRIPT") throw error;
      return redis.callBuffer("EVAL", [text, keys.length, ...keys, ...args]);
    }
  });
}
