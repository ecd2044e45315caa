/**
 * Who reads which partition: pure, from what the members of a group say of themselves. The client's own assigner deals out
 * the topics of the leader only; here each topic is dealt out among those who subscribe to it.
 *
 * - Balanced: of one topic, any two of its subscribers differ by at most one partition.
 * - Sticky: within that, who had a partition keeps it.
 * - Together: partition `p` of a retry topic goes to who has `p` of its topic, so that all messages of a key are in one
 *   process.
 */

/** What one member says. */
export interface MemberClaim {
  readonly memberId: string;
  readonly topics: readonly string[];
  /** Partitions of each topic, as this member knows them. */
  readonly partitions: Readonly<Record<string, number>>;
  /** What it had before. */
  readonly owned: Readonly<Record<string, readonly number[]>>;
}

/** Partitions by topic, of one member. */
export type Assigned = Record<string, number[]>;

/** The topic that a retry topic belongs to; a topic's own name for any other. Names have no `--` of their own. */
function baseTopicOf(topic: string): string {
  const at = topic.indexOf("--");
  return at === -1 ? topic : topic.slice(0, at);
}

/** Deals out all partitions. The same for the same claims, in whatever order they come. */
export function assignPartitions(claims: readonly MemberClaim[]): Map<string, Assigned> {
  const members = claims.toSorted((a, b) => compare(a.memberId, b.memberId));
  const dealt = new Map(members.map(({ memberId }) => [memberId, Object.create(null) as Assigned]));
  const topics = [...new Set(members.flatMap((member) => member.topics))];
  // Retry topics come after the topics whose owners they follow.
  topics.sort((a, b) => Number(a.includes("--")) - Number(b.includes("--")) || compare(a, b));
  const owners = new Map<string, Map<number, string>>();
  for (const topic of topics) {
    const candidates = members.filter((member) => member.topics.includes(topic));
    const count = Math.max(0, ...candidates.map(({ partitions }) => partitions[topic] ?? 0));
    const preferred = owners.get(baseTopicOf(topic)) ?? new Map<number, string>();
    const owner = topic.includes("--")
      ? dealFollowing(topic, count, candidates, preferred, dealt)
      : dealEvenly(topic, count, candidates, dealt);
    owners.set(topic, owner);
    for (const [partition, memberId] of owner)
      ((dealt.get(memberId) as Assigned)[topic] ??= []).push(partition);
  }
  return dealt;
}

/** A retry topic's partitions: to the owners of the topic's, the others evenly. */
function dealFollowing(
  topic: string,
  count: number,
  candidates: readonly MemberClaim[],
  preferred: ReadonlyMap<number, string>,
  dealt: ReadonlyMap<string, Assigned>,
): Map<number, string> {
  const owner = new Map<number, string>();
  const orphans: number[] = [];
  for (let partition = 0; partition < count; partition += 1) {
    const followed = preferred.get(partition);
    if (followed !== undefined && candidates.some(({ memberId }) => memberId === followed)) {
      owner.set(partition, followed);
    } else {
      orphans.push(partition);
    }
  }
  for (const [partition, memberId] of deal(topic, orphans, candidates, dealt)) owner.set(partition, memberId);
  return owner;
}

function dealEvenly(
  topic: string,
  count: number,
  candidates: readonly MemberClaim[],
  dealt: ReadonlyMap<string, Assigned>,
): Map<number, string> {
  return deal(topic, [...Array(count).keys()], candidates, dealt);
}

/** Deals `partitions` of one topic: first to who had them, up to a fair share, then the rest to who has least. */
function deal(
  topic: string,
  partitions: readonly number[],
  candidates: readonly MemberClaim[],
  dealt: ReadonlyMap<string, Assigned>,
): Map<number, string> {
  const owner = new Map<number, string>();
  if (candidates.length === 0) return owner;
  const free = new Set(partitions);
  const fair = Math.floor(partitions.length / candidates.length);
  let extras = partitions.length % candidates.length;
  const share = new Map(candidates.map(({ memberId }) => [memberId, 0]));
  const give = (partition: number, memberId: string): void => {
    owner.set(partition, memberId);
    free.delete(partition);
    share.set(memberId, (share.get(memberId) as number) + 1);
  };
  for (const { memberId, owned } of candidates) {
    for (const partition of (owned[topic] ?? []).toSorted((a, b) => a - b)) {
      const has = share.get(memberId) as number;
      if (!free.has(partition) || has > fair || (has === fair && extras === 0)) continue;
      if (has === fair) extras -= 1;
      give(partition, memberId);
    }
  }
  const total = (memberId: string): number =>
    Object.values(dealt.get(memberId) as Assigned).reduce((sum, list) => sum + list.length, 0);
  for (const partition of free) {
    const least = candidates.toSorted(
      (a, b) =>
        (share.get(a.memberId) as number) - (share.get(b.memberId) as number) ||
        total(a.memberId) - total(b.memberId) ||
        compare(a.memberId, b.memberId),
    )[0] as MemberClaim;
    give(partition, least.memberId);
  }
  return owner;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
