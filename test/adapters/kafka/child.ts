/**
 * A consumer in a process of its own, to be killed: `node child.ts <url> <topic> <group> <poison>`. It prints each number it is
 * given with its attempt; the poisonous one kills the process (`die`), or is never finished (`hold`).
 */
import { createBus, defineTopic } from "postrider";
import { kafka } from "postrider/kafka";

const [url = "", name = "", group = "", what = "", poison = ""] = process.argv.slice(2);
const bus = createBus({
  adapter: kafka({ url }),
  onEvent: (event) => {
    if (event.type === "deadLettered") process.stdout.write(`dead ${event.messageId} ${event.reason}\n`);
  },
});
const topic = defineTopic<number>(name);
await bus.consume(topic, { group, concurrency: 8, lease: "1s" }, async (n, { attempt }) => {
  process.stdout.write(`given ${n} ${attempt}\n`);
  if (n !== Number(poison)) return;
  if (what === "die") process.kill(process.pid, "SIGKILL");
  await new Promise(() => undefined);
});
process.stdout.write("consuming\n");
