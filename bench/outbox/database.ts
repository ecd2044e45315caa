/** A database of the benchmark's own with the library's tables, and rows as an application would have left them. */
import { Pool } from "pg";
import { type Topic, createBus, defineTopic } from "postrider";
import { memory } from "postrider/memory";
import { postgres } from "postrider/postgres";
import { broker } from "../../scripts/brokers/index.ts";

const keys = 5_000;
/** About 300 bytes of JSON. */
export const payloadOf = (
  n: number,
): { readonly n: number; readonly key: string; readonly text: string } => ({
  n,
  key: `k${n % keys}`,
  text: "x".repeat(260),
});
export type Payload = ReturnType<typeof payloadOf>;

export const keyless: Topic<Payload, Payload> = defineTopic<Payload>("bench.none");
export const keyed: Topic<Payload, Payload> = defineTopic<Payload>("bench.key", { key: ({ key }) => key });

export interface BenchDatabase {
  readonly url: string;
  readonly pool: Pool;
  /** Adds messages of a topic, a copy of one that the library has written, with ids and keys of their own. */
  fill(topic: Topic<Payload, Payload>, count: number): Promise<void>;
  /** Empties the outbox. */
  clear(): Promise<void>;
  drop(): Promise<void>;
}

export async function openDatabase(label: string): Promise<BenchDatabase> {
  const server = broker("postgres");
  await server.up();
  const name = `bench_${label}_${process.pid}`;
  const admin = new Pool({ connectionString: server.url, max: 1 });
  await admin.query(`CREATE DATABASE ${name}`);
  const url = Object.assign(new URL(server.url), { pathname: `/${name}` }).href;
  const pool = new Pool({ connectionString: url, max: 12 });
  // Dropping the database ends connections that are just closing.
  pool.on("error", () => undefined);
  await pool.query("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)");
  // What a hand-written outbox would have.
  await pool.query(
    "CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text, key text, body text)",
  );
  const store = postgres({ pool });
  await store.migrate();
  await store.close();

  const template = async (topic: Topic<Payload, Payload>): Promise<void> => {
    await using bus = createBus({ adapter: memory(), store: postgres({ url }) });
    await bus.transaction((_tx, outbox) => outbox.publish(topic, payloadOf(1)));
    await pool.query(`CREATE TABLE IF NOT EXISTS template (LIKE postrider.outbox)`);
    await pool.query(
      `WITH d AS (DELETE FROM postrider.outbox RETURNING *) INSERT INTO template SELECT * FROM d`,
    );
  };
  await template(keyless);
  await template(keyed);

  return {
    url,
    pool,
    async fill(topic, count) {
      const columns = "topic, body, encoding, headers, partitions, keyed, group_name, dead, durability";
      await pool.query(
        `INSERT INTO postrider.outbox (${columns}, attributes, key)
          SELECT ${columns}, (attributes::jsonb || jsonb_build_object('id', gen_random_uuid()))::text,
            CASE WHEN keyed THEN 'k' || n % ${keys} END
          FROM template, generate_series(1, $2::int) AS n WHERE topic = $1 ORDER BY n`,
        [topic.name, count],
      );
    },
    async clear() {
      await pool.query("TRUNCATE postrider.outbox");
    },
    async drop() {
      await pool.end();
      await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end();
    },
  };
}
