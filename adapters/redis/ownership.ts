/**
 * Who reads for an ordered group: one consumer at a time, under a lease that it renews. Each change of hands raises an
 * epoch; reads and settles carry it, so that a consumer that slept through the end of its lease changes nothing.
 */
import type { Cancel, Runtime } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import type { ReaderIdentity } from "./pending.ts";
import { run, script } from "./script.ts";

/** `KEYS` owner, epoch; `ARGV` consumer, lease. Answers the ownership, or how long the other one's lease still runs. */
const acquireScript = script(
  "taking the group over",
  `
local owner = redis.call('GET', KEYS[1])
if owner then
  -- An earlier answer may have been lost on the way.
  if string.match(owner, '^%d+:(.*)$') ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[1])} end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, owner}
end
owner = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], owner, 'PX', ARGV[2])
return {1, owner}`,
);

/** `KEYS` owner; `ARGV` ownership, lease. */
const renewScript = script(
  "renewing the ownership of the group",
  `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`,
);

/** `KEYS` owner; `ARGV` ownership. */
const giveUpScript = script(
  "giving the group up",
  `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`,
);

export interface OwnershipContext {
  readonly connection: RedisConnection;
  readonly identity: ReaderIdentity;
  readonly leaseMs: number;
  readonly runtime: Runtime;
  /** It ended without having been given up. */
  readonly onLost: () => void;
}

export class Ownership {
  readonly #context: OwnershipContext;
  #value = "";
  /** On the monotonic clock, counted from before the request left: never later than the server's. */
  #until = 0;
  #cancelTimer: Cancel = () => undefined;

  constructor(context: OwnershipContext) {
    this.#context = context;
  }

  /** What the owner's key holds while this consumer owns the group; else empty. */
  get value(): string {
    return this.#value;
  }

  /** Resolves with 0 when the group is ours now, else with how long to wait before asking again. */
  async acquire(): Promise<number> {
    const { connection, identity, leaseMs, runtime } = this.#context;
    const startedAt = runtime.monotonic();
    const { owner, epoch } = identity.keys;
    const answer = await run(
      connection.commands,
      acquireScript,
      [owner, epoch],
      [identity.consumer, leaseMs],
    );
    const [ours, detail] = answer as readonly [number, Buffer | number];
    if (ours === 0) return Math.max(1, Number(detail));
    this.#value = String(detail);
    this.#until = startedAt + leaseMs;
    this.#schedule(leaseMs / 3);
    return 0;
  }

  /** The server says that somebody else has it. */
  lose(): void {
    if (this.#value === "") return;
    this.#end();
    this.#context.onLost();
  }

  /** Lets others have it at once. */
  async giveUp(): Promise<void> {
    const value = this.#value;
    if (value === "") return;
    this.#end();
    await run(this.#context.connection.commands, giveUpScript, [this.#context.identity.keys.owner], [value]);
  }

  #end(): void {
    this.#value = "";
    this.#cancelTimer();
  }

  #schedule(ms: number): void {
    this.#cancelTimer();
    this.#cancelTimer = this.#context.runtime.setTimer(ms, () => void this.#renew());
  }

  async #renew(): Promise<void> {
    const { connection, identity, leaseMs, runtime } = this.#context;
    const value = this.#value;
    const startedAt = runtime.monotonic();
    if (startedAt >= this.#until) return this.lose();
    try {
      // However long the answer takes, the lease may not be taken to be longer than it is.
      this.#schedule(this.#until - startedAt);
      const renewed = await run(connection.commands, renewScript, [identity.keys.owner], [value, leaseMs]);
      if (this.#value !== value) return;
      if (renewed === 0) return this.lose();
      this.#until = startedAt + leaseMs;
      this.#schedule(leaseMs / 3);
    } catch {
      // Tried again until the lease is over; whatever the reason, that end is all that follows from it.
      if (this.#value !== value) return;
      this.#schedule(Math.min(leaseMs / 6, Math.max(1, this.#until - runtime.monotonic())));
    }
  }
}
