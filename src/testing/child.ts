/** Programs that scenarios run in a process of their own: `node child.ts <backend module> <program>`. */
import { createBus } from "../create-bus.ts";
import { defineTopic } from "../topic.ts";
import { eventually } from "./eventually.ts";
import type { Backend } from "./conformance/scenario.ts";

const programs: Readonly<Record<string, (backend: Backend) => Promise<void>>> = {
  /** Does a little of everything, closes, and must then end by itself. */
  async "publish-consume-close"(backend) {
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
  },
};

const [module, name] = process.argv.slice(2);
const program = programs[name ?? ""];
if (module === undefined || program === undefined)
  throw new Error(`usage: child <module> ${Object.keys(programs).join("|")}`);
const { createBackend } = (await import(module)) as { createBackend: () => Promise<Backend> };
await program(await createBackend());
