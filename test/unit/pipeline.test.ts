import assert from "node:assert/strict";
import { describe, it } from "vitest";
import type { Outcome } from "../../src/outcome.ts";
import { type Middleware, compose } from "../../src/pipeline.ts";
import { errorOf, messagingErrorOf } from "./support/errors.ts";

const ack: Outcome = { kind: "ack" };
type Steps = string[];

const step =
  (name: string): Middleware<Steps> =>
  async (steps, next) => {
    steps.push(`${name} before`);
    const outcome = await next();
    steps.push(`${name} after`);
    return outcome;
  };
const terminal = async (steps: Steps): Promise<Outcome> => {
  steps.push("handler");
  return ack;
};

describe("compose", () => {
  it("runs the first middleware outermost", async () => {
    const steps: Steps = [];

    assert.equal(await compose([step("a"), step("b")], terminal)(steps), ack);
    assert.deepEqual(steps, ["a before", "b before", "handler", "b after", "a after"]);
  });

  it("runs the handler alone when there is no middleware", async () => {
    assert.equal(await compose<Steps>([], terminal)([]), ack);
  });

  it("lets a middleware answer in place of the handler", async () => {
    const steps: Steps = [];
    const shut: Middleware<Steps> = async () => ({ kind: "discard", reason: "closed" });

    assert.deepEqual(await compose([shut, step("b")], terminal)(steps), {
      kind: "discard",
      reason: "closed",
    });
    assert.deepEqual(steps, []);
  });

  it("lets a middleware see the handler's failure, and heal it", async () => {
    const failure = new Error("handler");
    const seen: unknown[] = [];
    const heal: Middleware<Steps> = async (_steps, next) =>
      next().catch((error: unknown) => (seen.push(error), ack));

    const run = compose([heal], async () => {
      throw failure;
    });

    assert.equal(await run([]), ack);
    assert.deepEqual(seen, [failure]);
  });

  it("rejects with what is thrown, also when that is thrown at once", async () => {
    const failure = new Error("middleware");
    const broken: Middleware<Steps> = () => {
      throw failure;
    };

    assert.equal(await errorOf(() => compose([broken], terminal)([])), failure);
  });

  it.each([0, 1])("refuses a second next() of middleware %d, whichever is waited for", async (index) => {
    const twice: Middleware<Steps> = async (_steps, next) => {
      await next();
      return next();
    };
    const chain = [step("a"), step("b")].with(index, twice);

    const { message } = await messagingErrorOf("ERR_CONFIG", () => compose(chain, terminal)([]));
    assert.match(message, /next\(\) was called twice/u);
  });

  it("refuses a second next() also when the first is still running", async () => {
    const twice: Middleware<Steps> = (_steps, next) => Promise.all([next(), next()]).then(([first]) => first);

    await messagingErrorOf("ERR_CONFIG", () => compose([twice], terminal)([]));
  });

  it("counts each run on its own", async () => {
    const run = compose([step("a")], terminal);

    assert.deepEqual(await Promise.all([run([]), run([]), run([])]), [ack, ack, ack]);
  });
});
