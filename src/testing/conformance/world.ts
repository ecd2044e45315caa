/** Makes the world of one scenario and takes it down again. */
import { spawn } from "node:child_process";
import assert from "node:assert/strict";
import type { Bus } from "../../bus.ts";
import { createBus } from "../../create-bus.ts";
import type { BusEvent } from "../../events.ts";
import { nodeRuntime } from "../../clock.ts";
import { defineTopic } from "../../topic.ts";
import { eventually } from "../eventually.ts";
import type { Backend, Child, Received, Recorder, World } from "./scenario.ts";

export interface OpenWorld extends World {
  close(): Promise<void>;
}

const childTimeoutMs = 60_000;

/** `module` is what a child process imports to make the same backend. */
export function openWorld(scenarioId: string, backend: Backend, module: string): OpenWorld {
  const buses: Bus[] = [];
  const children: (Child & { kill(): void })[] = [];
  const events: BusEvent[] = [];
  const unique = nodeRuntime.newId().slice(-12);
  let topics = 0;

  return {
    capabilities: backend.adapter().capabilities,
    faults: backend.faults,
    foreign: backend.foreign,
    database: backend.database,
    events,
    async bus({ store = false, ...options } = {}) {
      const own = store === false ? undefined : await backend.database.store();
      const bus = createBus({
        ...options,
        adapter: backend.adapter(),
        store: own !== undefined && typeof store === "function" ? store(own) : own,
        drainTimeout: options.drainTimeout ?? "2s",
        onEvent: (event) => {
          events.push(event);
          options.onEvent?.(event);
        },
      });
      buses.push(bus);
      return bus;
    },
    topic: (options = {}) =>
      defineTopic(`${scenarioId.toLowerCase()}-${(topics += 1)}-${unique}`, options as object) as never,
    async consume(bus, topic, options, handler = () => undefined) {
      const recorder = createRecorder<never>();
      const consumer = await bus.consume(topic, options, (payload, context) => {
        recorder.record({
          payload: structuredClone(payload) as never,
          id: context.message.id,
          attempt: context.attempt,
          context: context as never,
        });
        return handler(payload, context);
      });
      return Object.assign(recorder, { consumer });
    },
    child(program, options) {
      const child = startChild(module, program, { ...options, address: backend.address });
      children.push(child);
      return child;
    },
    async close() {
      for (const child of children) child.kill();
      await Promise.allSettled(children.map(({ ended }) => ended));
      await Promise.allSettled(buses.map((bus) => bus.close({ timeout: 0 })));
    },
  };
}

function createRecorder<P>(): Recorder<P> & { record(received: Received<P>): void } {
  const received: Received<P>[] = [];
  const ids = (): string[] => [...new Set(received.map(({ id }) => id))];
  return {
    received,
    ids,
    record: (one) => void received.push(one),
    async waitFor(count, what = "messages") {
      await eventually(() => {
        const have = what === "messages" ? ids().length : received.length;
        assert.ok(have >= count, `${have} of ${count} ${what} have come`);
      }, 60_000);
    },
  };
}

function startChild(module: string, program: string, options: object): Child & { kill(): void } {
  const fromSource = import.meta.url.endsWith(".ts");
  const script = new URL(fromSource ? "../child.ts" : "./testing-child.js", import.meta.url);
  const flags = fromSource ? ["--conditions=postrider-source"] : [];
  const args = [...flags, script.pathname, module, program, JSON.stringify(options)];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"], timeout: childTimeoutMs });
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal }));
  });
  // It may be waited for later, or never.
  ended.catch(() => undefined);
  return {
    output: () => output,
    resume: () => void child.kill("SIGCONT"),
    kill: () => void child.kill("SIGKILL"),
    ended,
  };
}
