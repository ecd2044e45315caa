/** The application's tables, its writers, and what the tables say at the end. */
import { type Client, Pool, type PoolClient } from "pg";
import { setTimeout as sleep } from "node:timers/promises";
import { createBus } from "postrider";
import { type Place, adapterOf, group, letters, storeOf } from "./shared.ts";

interface Verdict {
  readonly sent: number;
  readonly handled: number;
  /** Committed, and without an effect. */
  readonly lost: number;
  /** An effect of what was never committed. */
  readonly invented: number;
  readonly twice: number;
  /** Effects of a key that came after that of a later message. */
  readonly inversions: number;
}

export interface Application {
  /** Sends until `messages` are committed, never more than `ahead` before the effects. */
  write(messages: number, keys: number, random: () => number): Promise<void>;
  readonly progress: () => Promise<{
    readonly sent: number;
    readonly handled: number;
    readonly waiting: number;
  }>;
  verdict(): Promise<Verdict>;
  close(): Promise<void>;
}

const ahead = 1_000;
const writers = 4;

export async function openApplication(place: Place): Promise<Application> {
  const pool = new Pool({ connectionString: place.databaseUrl, max: 8 });
  // Connections end when the server is killed.
  pool.on("error", () => undefined);
  const bus = createBus({
    adapter: adapterOf(place),
    store: storeOf(place),
    connectTimeout: "5m",
    onEvent: () => undefined,
  });
  await bus.migrate();
  await bus.declare({ groups: { [group]: [letters] } });
  await pool.query(`CREATE TABLE counters (key text PRIMARY KEY, n int NOT NULL);
    CREATE TABLE sent (key text NOT NULL, n int NOT NULL, PRIMARY KEY (key, n));
    CREATE TABLE effects (at bigint GENERATED ALWAYS AS IDENTITY, key text NOT NULL, n int NOT NULL)`);

  /** One transaction. Whether it was committed, only the database knows. */
  const send = async (key: string, random: () => number): Promise<void> => {
    const client = await connect(pool);
    try {
      await client.query("BEGIN");
      const next = `INSERT INTO counters VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET n = counters.n + 1 RETURNING n`;
      const { rows } = await client.query<{ n: number }>(next, [key]);
      const letter = { key, n: rows[0]?.n ?? 0 };
      await client.query("INSERT INTO sent (key, n) VALUES ($1, $2)", [letter.key, letter.n]);
      await bus.outbox(client).publish(letters, letter);
      await client.query(random() < 0.1 ? "ROLLBACK" : "COMMIT");
      client.release();
    } catch (error) {
      client.release(true);
      throw error;
    }
  };

  const one = async <T>(text: string): Promise<T> => {
    for (;;) {
      try {
        return ((await pool.query(text)).rows as T[])[0] as T;
      } catch {
        await sleep(100);
      }
    }
  };
  const progress: Application["progress"] = () =>
    one(`SELECT (SELECT count(*) FROM sent)::int AS sent, (SELECT count(*) FROM effects)::int AS handled,
      (SELECT count(*) FROM postrider.outbox)::int AS waiting`);

  return {
    progress,
    async write(messages, keys, random) {
      let now = await progress();
      const watch = async (): Promise<void> => {
        while (now.sent < messages) {
          await sleep(50);
          now = await progress();
        }
      };
      const lane = async (): Promise<void> => {
        while (now.sent < messages) {
          if (now.sent - now.handled > ahead) await sleep(20);
          else await send(`k${Math.floor(random() * keys)}`, random).catch(() => sleep(50));
        }
      };
      await Promise.all([watch(), ...Array.from({ length: writers }, lane)]);
    },
    verdict: () =>
      one(`WITH e AS (SELECT key, n, at, max(n) OVER (PARTITION BY key ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM effects),
        d AS (SELECT key, n, count(*) AS times FROM effects GROUP BY key, n)
        SELECT (SELECT count(*) FROM sent)::int AS sent, (SELECT count(*) FROM d)::int AS handled,
          (SELECT count(*) FROM sent LEFT JOIN d USING (key, n) WHERE d.n IS NULL)::int AS lost,
          (SELECT count(*) FROM d LEFT JOIN sent USING (key, n) WHERE sent.n IS NULL)::int AS invented,
          (SELECT coalesce(sum(times - 1), 0) FROM d)::int AS twice,
          (SELECT count(*) FROM e WHERE n < before)::int AS inversions`),
    async close() {
      await bus.close({ timeout: 0 });
      await pool.end();
    },
  };
}

/** A client whose connection may break while it idles in a transaction: whoever uses it next learns of it. */
async function connect(pool: Pool): Promise<PoolClient> {
  const client = await pool.connect();
  const emitter: Pick<Client, "listenerCount" | "on"> = client;
  if (emitter.listenerCount("error") === 0) emitter.on("error", () => undefined);
  return client;
}
