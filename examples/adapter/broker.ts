/** A broker made of arrays in this process: for each topic its groups. What an adapter binds to. */
import type { GroupSpec, WireMessage } from "postrider/spi";

export interface Entry {
  readonly place: number;
  readonly message: WireMessage;
}

export class Group {
  readonly ready: Entry[] = [];
  readonly dead = new Map<string, WireMessage>();
  readonly wakers = new Set<() => void>();
  #places = 0;

  add(message: WireMessage): void {
    this.ready.push({ place: (this.#places += 1), message });
    for (const wake of this.wakers) wake();
  }

  giveBack(entry: Entry): void {
    this.ready.unshift(entry);
    for (const wake of this.wakers) wake();
  }
}

/** Groups by topic and name. */
export type ArrayBroker = Map<string, Map<string, Group>>;

export function groupOf(broker: ArrayBroker, { topic, group }: GroupSpec): Group {
  const groups = broker.get(topic.name) ?? new Map<string, Group>();
  const found = groups.get(group) ?? new Group();
  broker.set(topic.name, groups.set(group, found));
  return found;
}
