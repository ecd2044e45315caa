/** What the server's own settings mean for the promises made on top of it. Said once, by name and with the remedy. */
import type { Redis } from "ioredis";
import { connectError, isReply, tooOld } from "./errors.ts";

/** Something that will matter later; the name is said once. */
export type Warn = (code: string, message: string) => void;

/**
 * Looks at the server of a new connection. Rejects when it is none to work with: too old, or a read-only replica. What a
 * user's ACL does not let it see is not checked.
 */
export async function checkServer(redis: Redis, target: string, warn: Warn): Promise<void> {
  const info = await readInfo(redis);
  const version = info.get("valkey_version") ?? info.get("redis_version");
  if (version !== undefined && !info.has("valkey_version") && olderThan(version, 6, 2)) throw tooOld(version);
  if (info.get("role") === "slave") {
    const error = new Error("it is a replica, which takes no writes");
    throw connectError(target, error);
  }
  const settings = await readSettings(redis);
  checkEviction(info.get("maxmemory_policy") ?? settings.get("maxmemory-policy"), warn);
  checkDurability(
    settings.get("appendonly") ?? asSetting(info.get("aof_enabled")),
    settings.get("appendfsync"),
    warn,
  );
}

function checkEviction(policy: string | undefined, warn: Warn): void {
  if (policy === undefined || policy === "noeviction") return;
  const text = `Redis may evict messages: maxmemory-policy is ${policy}. Set it to noeviction, or give messages a server of their own.`;
  warn("REDIS_EVICTION", text);
}

function checkDurability(appendonly: string | undefined, appendfsync: string | undefined, warn: Warn): void {
  if (appendonly === "no") {
    const text =
      "Redis forgets messages when it restarts: appendonly is no. Set appendonly yes and appendfsync always.";
    return warn("REDIS_APPENDONLY", text);
  }
  if (appendfsync !== undefined && appendfsync !== "always") {
    const text = `a crash of Redis's machine loses messages that were confirmed in the last ${appendfsync === "no" ? "half minute" : "seconds"}: appendfsync is ${appendfsync}. Set it to always.`;
    warn("REDIS_APPENDFSYNC", text);
  }
}

/** `INFO`, or nothing where it is not allowed. */
async function readInfo(redis: Redis): Promise<ReadonlyMap<string, string>> {
  const text = await allowed(redis.info());
  const lines = (text ?? "").split("\r\n").filter((line) => line.includes(":") && !line.startsWith("#"));
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)]));
}

async function readSettings(redis: Redis): Promise<ReadonlyMap<string, string>> {
  const settings = new Map<string, string>();
  for (const name of ["appendonly", "appendfsync", "maxmemory-policy"]) {
    const answer = (await allowed(redis.config("GET", name))) as readonly string[] | undefined;
    const [, value] = answer ?? [];
    if (value !== undefined) settings.set(name, value);
  }
  return settings;
}

/** Administrative commands are often refused, by an ACL or by whoever runs the server: then nothing is known. */
async function allowed<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (isReply(error)) return undefined;
    throw error;
  }
}

function asSetting(enabled: string | undefined): string | undefined {
  return enabled === undefined ? undefined : enabled === "1" ? "yes" : "no";
}

function olderThan(version: string, major: number, minor: number): boolean {
  const [ownMajor = 0, ownMinor = 0] = version.split(".").map(Number);
  return ownMajor < major || (ownMajor === major && ownMinor < minor);
}
