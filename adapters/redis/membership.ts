/**
 * Which partitions of an ordered group this subscription reads: its share among those that are alive, each under a lease of
 * its own that it renews. Each change of hands raises an epoch; reads and settles carry it, so that who slept through the
 * end of a lease changes nothing. A partition goes to somebody else only when nothing of it is being handled.
 */
import type { Cancel, Runtime } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import type { Claim } from "./entry.ts";
import { type GroupKeys, ownerKey } from "./keys.ts";
import { consumerOf } from "./partitions.ts";
import { balanceScript, leaveScript } from "./membership-scripts.ts";
import { run } from "./script.ts";

/** How soon a change of the group is noticed. */
const everyMs = 500;

/** A partition while it is ours. */
export interface Grant {
  readonly partition: number;
  readonly claim: Claim;
}

export interface MembershipContext {
  readonly connection: RedisConnection;
  readonly keys: GroupKeys;
  readonly member: string;
  /** How many partitions there shall be, as long as the group has no other number. */
  readonly partitions: number;
  readonly leaseMs: number;
  readonly runtime: Runtime;
  /** How many deliveries of it are not settled. */
  readonly unsettled: (grant: Grant) => number;
  readonly onGained: (grants: readonly Grant[]) => void;
  /** They ended without having been given up. */
  readonly onLost: (grants: readonly Grant[]) => void;
  /** The group has another number of partitions, which is used. */
  readonly onOther: (partitions: number) => void;
}

export class Membership {
  readonly #context: MembershipContext;
  readonly #grants = new Map<number, Grant>();
  /** Those to be handed over, and how long that is waited for: nothing new of them is read. */
  readonly #drains = new Map<Grant, number>();
  /** Those that did not become quiet in time: until when they are left alone, and how long to wait the next time. */
  readonly #busy = new Map<Grant, { readonly untilMs: number; readonly patienceMs: number }>();
  #partitions: number;
  /** Until when the grants hold, on the monotonic clock, counted from before the request left: never later than the server's. */
  #until = 0;
  #balancing: Promise<void> | undefined;
  #left = false;
  #cancelTimer: Cancel = () => undefined;
  #cancelEnd: Cancel = () => undefined;

  constructor(context: MembershipContext) {
    this.#context = context;
    this.#partitions = context.partitions;
  }

  get partitions(): number {
    return this.#partitions;
  }

  /** Resolves when it is a member. Rejects with `RequestError`. */
  async join(): Promise<void> {
    while (this.#until === 0 && !this.#left) await this.balance();
  }

  /** The partitions to read. */
  readable(): Grant[] {
    return Array.from(this.#grants.values()).filter((grant) => !this.#drains.has(grant));
  }

  holds(grant: Grant): boolean {
    return this.#grants.get(grant.partition) === grant;
  }

  /** The server says that somebody else has them. */
  lose(grants: readonly Grant[]): void {
    const lost = grants.filter((grant) => this.holds(grant));
    for (const grant of lost) this.#forget(grant);
    if (lost.length > 0) this.#context.onLost(lost);
  }

  /** Lets others have everything at once. */
  async leave(): Promise<void> {
    this.#left = true;
    this.#cancelTimer();
    this.#cancelEnd();
    // What it could not do is of no use to one that leaves.
    await this.#balancing?.catch(() => undefined);
    const { connection, keys, member } = this.#context;
    const claims = Array.from(this.#grants.values(), ({ claim }) => claim);
    this.#grants.clear();
    const owners = claims.map(({ owner }) => owner);
    const ownerships = claims.map(({ ownership }) => ownership);
    await run(connection.commands, leaveScript, [keys.members, ...owners], [member, ...ownerships]);
  }

  /** Says that it is alive, and takes and gives what the group's state asks for; one at a time. Rejects with `RequestError`. */
  balance(): Promise<void> {
    this.#balancing ??= this.#balance().finally(() => (this.#balancing = undefined));
    return this.#balancing;
  }

  async #balance(): Promise<void> {
    const { connection, keys, member, leaseMs, runtime } = this.#context;
    const startedAt = runtime.monotonic();
    this.#schedule(everyMs);
    const quiet = [...this.#drains.keys()].filter((grant) => this.#context.unsettled(grant) === 0);
    const numbers = Array.from({ length: this.#partitions }, (_, i) => i);
    const own = numbers.map((i) => this.#grants.get(i));
    // Before it is said, so that nothing of them is read any more.
    for (const grant of quiet) this.#forget(grant);
    const owners = numbers.map((i) => ownerKey(keys, i, this.#partitions));
    const states = own.flatMap((grant) =>
      grant === undefined ? ["", 0] : [grant.claim.ownership, quiet.includes(grant) ? 1 : 0],
    );
    const answer = (await run(
      connection.commands,
      balanceScript,
      [keys.partitions, keys.members, keys.epoch, keys.own, ...owners],
      [member, leaseMs, this.#partitions, ...states],
    )) as readonly [partitions: number, share: number, ...ownerships: Buffer[]];
    const [partitions, share, ...ownerships] = answer;
    if (partitions !== this.#partitions) return this.#resize(partitions);
    this.#until = startedAt + leaseMs;
    this.#cancelEnd();
    if (!this.#left) this.#cancelEnd = runtime.setTimer(this.#until - runtime.monotonic(), () => this.#end());
    this.#update(ownerships.map(String));
    this.#plan(share);
  }

  /** The lease is over, and nobody knows better: whoever else may have them. */
  #end(): void {
    this.#until = 0;
    this.lose([...this.#grants.values()]);
  }

  #resize(partitions: number): void {
    this.lose([...this.#grants.values()]);
    this.#partitions = partitions;
    this.#until = 0;
    this.#context.onOther(partitions);
  }

  #update(ownerships: readonly string[]): void {
    const { keys } = this.#context;
    const partitions = this.#partitions;
    const lost = [...this.#grants.values()].filter(
      ({ partition, claim }) => ownerships[partition] !== claim.ownership,
    );
    this.lose(lost);
    const gained: Grant[] = [];
    ownerships.forEach((ownership, partition) => {
      if (ownership === "" || this.#grants.has(partition)) return;
      const consumer = consumerOf(partition, partitions);
      const claim = { consumer, owner: ownerKey(keys, partition, partitions), ownership };
      gained.push({ partition, claim });
    });
    for (const grant of gained) this.#grants.set(grant.partition, grant);
    if (gained.length > 0) this.#context.onGained(gained);
  }

  /**
   * What is beyond the share is read no further until it is quiet; which, has nothing to do with how busy they are, or a
   * newcomer would be given the idle ones. One that does not become quiet, such as one with a message that waits for its next
   * attempt, goes on after a while, and another is tried; it is itself again later, for longer, but most of the time it is read.
   */
  #plan(share: number): void {
    const { runtime, unsettled } = this.#context;
    const now = runtime.monotonic();
    for (const [grant, untilMs] of this.#drains) {
      if (now < untilMs) continue;
      this.#drains.delete(grant);
      const patienceMs = this.#patienceMs(grant);
      this.#busy.set(grant, { untilMs: now + 4 * patienceMs, patienceMs: 2 * patienceMs });
    }
    const surplus = Math.max(0, this.#grants.size - share);
    for (const grant of [...this.#drains.keys()].slice(surplus)) this.#drains.delete(grant);
    const candidates = this.readable().filter((grant) => now >= (this.#busy.get(grant)?.untilMs ?? 0));
    for (const grant of candidates.slice(0, surplus - this.#drains.size))
      this.#drains.set(grant, now + this.#patienceMs(grant));
    if ([...this.#drains.keys()].some((grant) => unsettled(grant) === 0)) this.#schedule(1);
  }

  #patienceMs(grant: Grant): number {
    return this.#busy.get(grant)?.patienceMs ?? this.#context.leaseMs / 6;
  }

  #forget(grant: Grant): void {
    this.#grants.delete(grant.partition);
    this.#drains.delete(grant);
    this.#busy.delete(grant);
  }

  #schedule(ms: number): void {
    this.#cancelTimer();
    if (this.#left) return;
    // What fails here is tried again until the lease is over, and said by the reading that waits for it then.
    const balance = (): void => void this.balance().catch(() => undefined);
    this.#cancelTimer = this.#context.runtime.setTimer(Math.min(ms, this.#context.leaseMs / 3), balance);
  }
}
