/** `assignment.ts` as the client's partition assigner. What a member says of itself travels in its subscription's user data. */
import type kafkajs from "kafkajs";
import type { Cluster, PartitionAssigner } from "kafkajs";
import { type Assigned, type MemberClaim, assignPartitions } from "./assignment.ts";

/** Members with another assigner cannot join: they would leave our retry topics unread. */
const protocolName = "postrider";

type Protocol = (typeof kafkajs)["AssignerProtocol"];

export interface AssignerHooks {
  /** What this member had until now. */
  owned(): Readonly<Record<string, readonly number[]>>;
  /** Partitions of a topic this member reads, should its client not know. */
  partitionsOf(topic: string): number;
  /** The client's cluster, which it gives to assigners only. */
  onCluster(cluster: Cluster): void;
}

/** The assigner of one member. The leader needs no I/O: each member brings what it knows. */
export function createAssigner(
  { MemberMetadata, MemberAssignment }: Protocol,
  hooks: AssignerHooks,
): PartitionAssigner {
  return ({ cluster }) => {
    hooks.onCluster(cluster);
    return {
      name: protocolName,
      version: 1,
      protocol({ topics }) {
        const partitions = Object.fromEntries(
          topics.map((topic) => [
            topic,
            cluster.findTopicPartitionMetadata(topic).length || hooks.partitionsOf(topic),
          ]),
        );
        const userData = Buffer.from(JSON.stringify({ partitions, owned: hooks.owned() }));
        return { name: protocolName, metadata: MemberMetadata.encode({ version: 1, topics, userData }) };
      },
      async assign({ members }) {
        const claims = members.map(({ memberId, memberMetadata }): MemberClaim => {
          const decoded = MemberMetadata.decode(memberMetadata);
          const { partitions, owned } = claimOf(decoded?.userData);
          return { memberId, topics: decoded?.topics ?? [], partitions, owned };
        });
        return Array.from(assignPartitions(claims), ([memberId, assignment]) => ({
          memberId,
          memberAssignment: MemberAssignment.encode({
            version: 1,
            assignment: assignment satisfies Assigned,
            userData: Buffer.alloc(0),
          }),
        }));
      },
    };
  };
}

/** User data of another version of this library, or of nobody we know, claims nothing. */
function claimOf(userData: Buffer | undefined): Pick<MemberClaim, "partitions" | "owned"> {
  try {
    const claim = JSON.parse(userData?.toString() ?? "") as Partial<MemberClaim>;
    return { partitions: claim.partitions ?? {}, owned: claim.owned ?? {} };
  } catch {
    return { partitions: {}, owned: {} };
  }
}
