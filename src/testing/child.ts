/** A program that a scenario runs in a process of its own: `node child.ts <backend module> <program> <options>`. */
import { createBus } from "../create-bus.ts";
import { defineTopic } from "../topic.ts";
import type { Backend, CreateBackend } from "./conformance/scenario.ts";
import { consume, redrive, relay } from "./crash-programs.ts";
import { eventually } from "./eventually.ts";

/** Does a little of everything, closes, and must then end by itself. */
async function publishConsumeClose(backend: Backend): Promise<void> {
  const store = await backend.database.store();
  const bus = createBus({ adapter: backend.adapter(), store });
  const topic = defineTopic<number>(`child-${process.pid}-${Date.now()}`);
  let handled = 0;
  await bus.consume(topic, { group: "g" }, () => void (handled += 1));
  bus.relay();
  await bus.publishAll(topic, [...Array(10).keys()]);
  await eventually(() => {
    if (handled < 10) throw new Error(`handled ${handled}`);
  });
  await bus.close();
  await backend.close();
  process.stdout.write(`handled ${handled}\n`);
}

const programs: Readonly<Record<string, (backend: Backend, options: never) => Promise<void>>> = {
  "publish-consume-close": publishConsumeClose,
  consume,
  relay,
  redrive,
};

const [module, name, text = "{}"] = process.argv.slice(2);
const program = programs[name ?? ""];
if (module === undefined || program === undefined)
  throw new Error(`usage: child <module> ${Object.keys(programs).join("|")} <options>`);
const { address, ...options } = JSON.parse(text) as { address?: string };
const { createBackend } = (await import(module)) as { createBackend: CreateBackend };
await program(await createBackend(address), options as never);
