/** The broker in memory: topics, groups, dead letters. Holds state and keeps its rules; knows nothing of connections. */
import { type Headers, type WireMessage, idOf } from "../../src/spi.ts";

/** A message in one group's queue. */
export interface Entry {
  readonly sequence: number;
  readonly message: WireMessage;
  /** How often it was handed over before. */
  redeliveries: number;
  /** Monotonic milliseconds; not handed over earlier. */
  readonly dueAt: number;
  /** It was published with a delay, and is not a copy that waits for another attempt. */
  readonly scheduled: boolean;
}

export interface GroupQueue {
  /** In order of `sequence`. */
  readonly ready: Entry[];
  /** Not due yet, in order of `dueAt`. */
  readonly delayed: Entry[];
  /** Keys of ordered deliveries under way: the next of a key waits for the one before. */
  readonly busyKeys: Set<string>;
  readonly dead: Map<string, Entry>;
  /** Called when there may be something to hand over. */
  readonly wakers: Set<() => void>;
}

interface MemoryTopic {
  /** What was published while there was no group. */
  retained: { readonly message: WireMessage; readonly dueAt: number }[];
  readonly groups: Map<string, GroupQueue>;
  /** Until when a message id, or an idempotency key, is remembered. */
  readonly seen: Map<string, number>;
}

const dedupeWindowMs = 10 * 60_000;

export class MemoryBroker {
  readonly #topics = new Map<string, MemoryTopic>();
  #sequence = 0;

  declareTopic(name: string): void {
    if (!this.#topics.has(name)) this.#topics.set(name, { retained: [], groups: new Map(), seen: new Map() });
  }

  declareGroup(topic: string, group: string): void {
    this.declareTopic(topic);
    const state = this.#topic(topic);
    if (state.groups.has(group)) return;
    const queue: GroupQueue = {
      ready: [],
      delayed: [],
      busyKeys: new Set(),
      dead: new Map(),
      wakers: new Set(),
    };
    state.groups.set(group, queue);
    if (state.groups.size > 1) return;
    for (const { message, dueAt } of state.retained) this.add(queue, message, dueAt, true);
    state.retained = [];
  }

  /** `dueAt` 0: now. `false`: it was published before, by its id or idempotency key. */
  publish(topic: string, message: WireMessage, now: number, dueAt: number): boolean {
    const state = this.#topic(topic);
    if (!remember(state.seen, message.attributes, now)) return false;
    if (state.groups.size === 0) state.retained.push({ message, dueAt });
    for (const queue of state.groups.values()) this.add(queue, message, dueAt, true);
    return true;
  }

  /** Takes back what waits for its delay to pass. `false`: there is none of this id. */
  cancel(topic: string, id: string, now: number): boolean {
    const state = this.#topic(topic);
    const cancelled = new Set<WireMessage>();
    const stays = ({
      message,
      dueAt,
    }: {
      readonly message: WireMessage;
      readonly dueAt: number;
    }): boolean => {
      if (message.attributes["id"] !== id || dueAt <= now) return true;
      cancelled.add(message);
      return false;
    };
    state.retained = state.retained.filter(stays);
    for (const { delayed } of state.groups.values())
      delayed.splice(0, Infinity, ...delayed.filter((entry) => !entry.scheduled || stays(entry)));
    for (const { attributes } of cancelled) for (const key of dedupeKeys(attributes)) state.seen.delete(key);
    return cancelled.size > 0;
  }

  group(topic: string, group: string): GroupQueue {
    const queue = this.#topic(topic).groups.get(group);
    if (queue === undefined) throw new Error(`group "${group}" of topic "${topic}" was not declared`);
    return queue;
  }

  /** Puts a message at the end of a group's queue, now or when it is due. */
  add(queue: GroupQueue, message: WireMessage, dueAt = 0, scheduled = false): void {
    this.#sequence += 1;
    const entry: Entry = { sequence: this.#sequence, message, redeliveries: 0, dueAt, scheduled };
    if (dueAt === 0) queue.ready.push(entry);
    else insert(queue.delayed, entry, (other) => other.dueAt > dueAt);
    wake(queue);
  }

  /** Puts an entry back where it was. */
  putBack(queue: GroupQueue, entry: Entry): void {
    insert(queue.ready, entry, ({ sequence }) => sequence > entry.sequence);
    wake(queue);
  }

  /** One dead letter per message id. */
  bury(topic: string, queue: GroupQueue, message: WireMessage): void {
    this.#sequence += 1;
    const id = idOf(topic, String(this.#sequence), message);
    if (!queue.dead.has(id))
      queue.dead.set(id, {
        sequence: this.#sequence,
        message,
        redeliveries: 0,
        dueAt: 0,
        scheduled: false,
      });
  }

  #topic(name: string): MemoryTopic {
    const state = this.#topics.get(name);
    if (state === undefined) throw new Error(`topic "${name}" was not declared`);
    return state;
  }
}

/** Moves what is due among the ready; returns when the next one will be. */
export function ripen(queue: GroupQueue, now: number): number {
  while ((queue.delayed[0]?.dueAt ?? Infinity) <= now) queue.ready.push(queue.delayed.shift() as Entry);
  return queue.delayed[0]?.dueAt ?? Infinity;
}

function insert(entries: Entry[], entry: Entry, isAfter: (other: Entry) => boolean): void {
  const at = entries.findIndex(isAfter);
  entries.splice(at === -1 ? entries.length : at, 0, entry);
}

export function wake(queue: GroupQueue): void {
  for (const waker of queue.wakers) waker();
}

function dedupeKeys({ id = "", idempotencykey = "" }: Headers): string[] {
  return [id === "" ? [] : `id:${id}`, idempotencykey === "" ? [] : `key:${idempotencykey}`].flat();
}

function remember(seen: Map<string, number>, attributes: Headers, now: number): boolean {
  const keys = dedupeKeys(attributes);
  for (const [key, until] of seen) {
    if (until > now) break;
    seen.delete(key);
  }
  if (keys.some((key) => (seen.get(key) ?? 0) > now)) return false;
  for (const key of keys) seen.set(key, now + dedupeWindowMs);
  return true;
}
