/** What the processes of a run have in common. */
import { type Topic, defineTopic } from "postrider";
import { type PostgresHandle, type PostgresTransaction, postgres } from "postrider/postgres";
import { rabbitmq } from "postrider/rabbitmq";
import { redis } from "postrider/redis";
import type { Adapter, Store } from "postrider/spi";

/** The `n`th letter of its key, counted in the transaction that sends it. */
export interface Letter {
  readonly key: string;
  readonly n: number;
}

export const letters: Topic<Letter, Letter, true> = defineTopic<Letter>("soak-outbox", {
  key: ({ key }) => key,
  partitions: 4,
});
export const group = "effects";

export type BrokerChoice = "rabbitmq" | "redis";

export interface Place {
  readonly broker: BrokerChoice;
  readonly brokerUrl: string;
  readonly databaseUrl: string;
}

export function adapterOf({ broker, brokerUrl: url }: Place): Adapter {
  return broker === "redis" ? redis({ url }) : rabbitmq({ url });
}

export function storeOf({ databaseUrl: url }: Place): Store<PostgresTransaction, PostgresHandle> {
  return postgres({ url });
}
