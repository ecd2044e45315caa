/** Programs that the tests of the SQLite adapter run in processes of their own: `node sqlite-child.ts <program> <path> <options>`. */
import { appendFileSync } from "node:fs";
import type { DatabaseSync } from "node:sqlite";
import { type Bus, createBus, defineTopic } from "postrider";
import { sqlite } from "postrider/sqlite";

export interface ChildOptions {
  /** Events go here, one line of JSON each: a file outlives its writer, however that ends. */
  readonly log: string;
  /** In front of the ids this process publishes. */
  readonly name?: string;
  readonly count?: number;
  readonly keys?: number;
  readonly handlerMs?: number;
  readonly lease?: "1s" | "2s" | "10s";
}

export interface ChildEvent {
  readonly type: "ready" | "attempt" | "accepted" | "failed" | "start" | "end" | "done";
  readonly id?: string;
  readonly key?: string;
  readonly attempt?: number;
  readonly messageId?: string;
  /** Of the machine's monotonic clock, which processes share: comparable between them. */
  readonly at: number;
  readonly pid: number;
}

interface Item {
  readonly id: string;
}

interface Step {
  readonly key: string;
  readonly n: number;
}

export const items = defineTopic<Item>("items");
export const results = defineTopic<Item>("results");
export const steps = defineTopic<Step>("steps", { key: ({ key }) => key });

type Say = (event: Omit<ChildEvent, "at" | "pid">) => void;

/** Starts the consumers of the crash test: each item has one effect and one result, in one transaction. */
export async function startHandling(bus: Bus<DatabaseSync, DatabaseSync>, say: Say): Promise<void> {
  const options = { group: "effects", once: "transaction", lease: "1s", concurrency: 4 } as const;
  await bus.consume(items, options, async ({ id }, context) => {
    context.tx.prepare("INSERT INTO effects (id) VALUES (?)").run(id);
    await context.publish(results, { id });
  });
  await bus.consume(results, { group: "ledger", once: false, lease: "1s" }, ({ id }, { message }) =>
    say({ type: "done", id, messageId: message.id }),
  );
}

async function publishForEver(bus: Bus<DatabaseSync, DatabaseSync>, name: string, say: Say): Promise<never> {
  for (let n = 0; ; n += 1) {
    const id = `${name}-${n}`;
    say({ type: "attempt", id });
    await bus.publish(items, { id }, { id });
    say({ type: "accepted", id });
  }
}

async function publishCount(
  bus: Bus<DatabaseSync, DatabaseSync>,
  { name, count }: Required<Pick<ChildOptions, "name" | "count">>,
  say: Say,
): Promise<void> {
  for (let n = 0, failed = 0; n < count && failed < 3; n += 1) {
    const id = `${name}-${n}`;
    const type = await bus
      .publish(items, { id, pad: "x".repeat(20_000) } as Item, { id, timeout: "1s" })
      .then(
        () => "accepted" as const,
        (error: unknown) => {
          process.stderr.write(`${String(error)}\n`);
          return "failed" as const;
        },
      );
    if (type === "failed") failed += 1;
    say({ type, id });
  }
  await bus.close();
}

type Program = (bus: Bus<DatabaseSync, DatabaseSync>, options: ChildOptions, say: Say) => Promise<void>;

const programs: Readonly<Record<string, Program>> = {
  /** Publishes and handles until it is killed. */
  async work(bus, { name = "" }, say) {
    await startHandling(bus, say);
    await Promise.all([publishForEver(bus, `${name}a`, say), publishForEver(bus, `${name}b`, say)]);
  },
  /** Handles items until it is killed. */
  async handle(bus, { handlerMs = 1, lease = "10s" }, say) {
    await bus.consume(
      items,
      { group: "g", once: false, lease, concurrency: 4 },
      async ({ id }, { attempt }) => {
        say({ type: "start", id, attempt });
        await new Promise((resolve) => setTimeout(resolve, handlerMs));
        say({ type: "end", id, attempt });
      },
    );
    say({ type: "ready" });
  },
  /** Handles steps in order until it is killed. */
  async follow(bus, { handlerMs = 1 }, say) {
    const options = { group: "g", once: false, order: "key", concurrency: 2 } as const;
    await bus.consume(steps, options, async ({ key, n }) => {
      say({ type: "start", key, id: String(n) });
      await new Promise((resolve) => setTimeout(resolve, handlerMs));
      say({ type: "end", key, id: String(n) });
    });
    say({ type: "ready" });
  },
  /** Prepares items, does the work of every other one (says "done"), and decides, until it is killed. */
  async prepare(bus, { name = "" }, say) {
    bus.checkBack(items, () => "unknown");
    const prepareForEver = async (lane: string): Promise<never> => {
      for (let n = 0; ; n += 1) {
        const id = `${name}${lane}-${n}`;
        const prepared = await bus.prepare(items, { id }, { id });
        say({ type: "accepted", id });
        if (n % 2 === 0) await prepared.rollback();
        else {
          say({ type: "done", id });
          await prepared.commit();
        }
      }
    };
    await Promise.all([prepareForEver("a"), prepareForEver("b")]);
  },
  /** Publishes some items and ends. */
  publish: (bus, { name = "", count = 1 }, say) => publishCount(bus, { name, count }, say),
  /** Connects and ends. */
  async connect(bus, _options, say) {
    await bus.connect();
    say({ type: "ready" });
    await bus.close();
  },
};

if (import.meta.filename === process.argv[1]) {
  const [name = "", path = "", options = "{}"] = process.argv.slice(2);
  const parsed = JSON.parse(options) as ChildOptions;
  const say: Say = (event) => {
    const line: ChildEvent = { ...event, at: Number(process.hrtime.bigint() / 1_000n), pid: process.pid };
    appendFileSync(parsed.log, `${JSON.stringify(line)}\n`);
  };
  const program = programs[name];
  if (program === undefined) throw new Error(`no program "${name}"`);
  await program(createBus({ adapter: sqlite({ path }) }), parsed, say);
}
