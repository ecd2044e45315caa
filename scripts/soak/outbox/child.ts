/** A process that is there to be killed: it relays, or it consumes. Says what happens in lines of text. */
import { type BusEvent, createBus } from "postrider";
import { type Place, adapterOf, group, letters, storeOf } from "./shared.ts";

const [role = "", where = ""] = process.argv.slice(2);
const place = JSON.parse(where) as Place;
const say = (line: string): void => void process.stdout.write(`${line}\n`);
const onEvent = ({ type }: BusEvent): void => {
  if (type === "duplicate" || type === "deadLettered") say(type);
};
const options = { adapter: adapterOf(place), connectTimeout: "5m", onEvent } as const;

function relay(): void {
  const relay = createBus({ ...options, store: storeOf(place) }).relay({ batch: 100 });
  const timer = setInterval(() => {
    if (!relay.health().active) return;
    clearInterval(timer);
    say("ready");
  }, 20);
}

async function consume(): Promise<void> {
  const store = storeOf(place);
  // A consumer starts a relay, too. That must never be the one that works: relays are killed as such.
  const outbox = { ...store.outbox, acquire: () => Promise.resolve(undefined) };
  const bus = createBus({ ...options, store: { ...store, outbox } });
  const retry = { maxAttempts: 1_000, backoff: () => 200 };
  await bus.consume(
    letters,
    { group, once: "transaction", order: "key", retry },
    async ({ key, n }, { tx }) => {
      await tx.query("INSERT INTO effects (key, n) VALUES ($1, $2)", [key, n]);
    },
  );
  say("ready");
}

if (role === "relay") relay();
else await consume();
