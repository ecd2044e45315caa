/**
 * Names of everything this adapter keeps on the server. The topic in braces is the hash tag: all keys of a topic, its
 * groups' included, are in one slot, so that a script may touch any of them together.
 */
import { type GroupSpec, type WireMessage, header, headerCount } from "../../src/spi.ts";

/** What a topic and one of its groups consist of. */
export interface GroupKeys {
  /** Stream of the topic, shared by its groups. */
  readonly main: string;
  /** Stream that only this group reads: deferred copies that came due, and redriven messages. */
  readonly own: string;
  /** Sorted set of deferred copies, by the time they are due. */
  readonly delayed: string;
  /** Hash of their bodies. */
  readonly bodies: string;
  /** Stream of dead letters. */
  readonly dead: string;
  /** Hash from message id to the dead letter's place: one entry per message. */
  readonly deadIds: string;
  /** How many partitions an ordered group is divided into. */
  readonly partitions: string;
  /** Who reads for an ordered group: sorted set of its members, by when they are taken for gone. */
  readonly members: string;
  /** How often one of its partitions has changed hands. */
  readonly epoch: string;
  /** How often messages were put into partitions that were with somebody outside of them. */
  readonly strays: string;
}

/** `<prefix>{<topic>}`: the stream of a topic. */
export function topicKey(prefix: string, topic: string): string {
  return `${prefix}{${topic}}`;
}

export function groupKeys(prefix: string, { topic, group }: GroupSpec): GroupKeys {
  const main = topicKey(prefix, topic.name);
  const own = `${main}--${group}`;
  return {
    main,
    own,
    delayed: `${own}--delayed`,
    bodies: `${own}--delayed-bodies`,
    dead: `${own}--dead`,
    deadIds: `${own}--dead-ids`,
    partitions: `${own}--partitions`,
    members: `${own}--members`,
    epoch: `${own}--owner-epoch`,
    strays: `${own}--strays`,
  };
}

/** Who reads a partition, while the lease lasts. */
export function ownerKey({ own }: GroupKeys, partition: number, partitions: number): string {
  return `${own}--owner-${partition}-of-${partitions}`;
}

/** Keys that remember a published message for the dedupe window: its id, and its idempotency key if it has one. */
export function seenKeys(topic: string, { attributes }: WireMessage): string[] {
  const keys: string[] = [];
  if (attributes["id"] !== undefined) keys.push(`${topic}:id:${attributes["id"]}`);
  if (attributes["idempotencykey"] !== undefined) keys.push(`${topic}:key:${attributes["idempotencykey"]}`);
  return keys;
}

/** The same for a message sent to one group: redriven again, it is another message. */
export function directSeenKeys(own: string, { attributes, headers }: WireMessage): string[] {
  const id = attributes["id"];
  return id === undefined ? [] : [`${own}:id:${headerCount(headers, header.redrives)}:${id}`];
}
