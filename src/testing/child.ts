/** A program that a scenario runs in a process of its own: `node child.ts <backend module> <program> <options>`. */
import { nodeRuntime } from "../clock.ts";
import { createBus } from "../create-bus.ts";
import { defineTopic } from "../topic.ts";
import type { Backend, CreateBackend } from "./conformance/scenario.ts";
import { consume, redrive, relay } from "./crash-programs.ts";
import { eventually } from "./eventually.ts";

/** Does a little of everything, closes, and must then end by itself. */
async function publishConsumeClose(backend: Backend): Promise<void> {
  const store = await backend.database.store();
  const bus = createBus({ adapter: backend.adapter(), store });
  const topic = defineTopic<number>(`child-${process.pid}-${nodeRuntime.now()}`);
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

/** Handles a little of a long backlog, slowly, and says by how many MiB its memory grew at most. */
async function slowConsumer(backend: Backend, options: { readonly topic: string }): Promise<void> {
  const bus = createBus({ adapter: backend.adapter() });
  await bus.connect();
  const before = process.memoryUsage.rss();
  let handled = 0;
  let most = 0;
  await bus.consume(defineTopic(options.topic), { group: "g", concurrency: 4 }, async () => {
    await nodeRuntime.sleep(2);
    handled += 1;
    most = Math.max(most, process.memoryUsage.rss() - before);
  });
  await eventually(() => {
    if (handled < 2_000) throw new Error(`handled ${handled}`);
  }, 60_000);
  process.stdout.write(`grew ${Math.ceil(most / 1_048_576)}\n`);
  await bus.close();
  await backend.close();
}

const programs: Readonly<Record<string, (backend: Backend, options: never) => Promise<void>>> = {
  "publish-consume-close": publishConsumeClose,
  "slow-consumer": slowConsumer,
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
