/** The connection for everything but records, and the one whose loss says that the broker is gone. */
import type { Admin, Cluster } from "kafkajs";
import { type Client, type ClientSetup, openClient } from "./client.ts";
import { openCluster } from "./cluster.ts";
import { hasType } from "./errors.ts";

export interface Control {
  readonly admin: Admin;
  /** How many brokers there are; `undefined` when the cluster does not say. */
  readonly brokers: readonly number[] | undefined;
  /** Rejects when no broker answers. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

/** Opens it. Rejects with the client's error. */
export async function openControl(setup: ClientSetup): Promise<Control> {
  const client: Client = openClient(setup);
  try {
    const opened = await openCluster(client, []);
    const brokers = await listBrokers(opened.cluster);
    const admin = client.kafka.admin({ retry: client.retry });
    await admin.connect();
    return {
      admin,
      brokers,
      ping: () => ping(opened.cluster),
      async close() {
        await Promise.allSettled([admin.disconnect(), opened.close()]);
        client.kill();
      },
    };
  } catch (error) {
    client.kill();
    throw error;
  }
}

/** The client asks for all topics with it, and gives no answer at all while one of them has no leader. */
async function listBrokers(cluster: Cluster): Promise<readonly number[] | undefined> {
  try {
    await cluster.refreshMetadata();
    return cluster.getNodeIds().map(Number);
  } catch (error) {
    if (hasType(error, "LEADER_NOT_AVAILABLE")) return undefined;
    throw error;
  }
}

async function ping(cluster: Cluster): Promise<void> {
  for (const nodeId of cluster.getNodeIds()) {
    try {
      const broker = await cluster.findBroker({ nodeId: String(nodeId) });
      await broker.apiVersions();
      return;
    } catch {
      // The next one may answer; that none did is what counts.
    }
  }
  // What is known may be outdated: from the start, by the addresses it was given.
  await cluster.connect();
  await listBrokers(cluster);
}
