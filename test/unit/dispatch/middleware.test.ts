import assert from "node:assert/strict";
import { type Outcome, constant, defineTopic } from "postrider";
import { describe, it } from "vitest";
import { openBus, settle } from "../support/bus.ts";

const topic = defineTopic<{ n: number }>("t");
const always = (): never => {
  throw new Error("always");
};

describe("middleware", () => {
  it("runs around each attempt: the bus's outside the consumer's, in the order it was added", async () => {
    const world = openBus();
    const steps: string[] = [];
    const note = (name: string) => async (_context: unknown, next: () => Promise<Outcome>) => {
      steps.push(`${name} in`);
      try {
        return await next();
      } finally {
        steps.push(`${name} out`);
      }
    };
    world.bus.use(note("bus 1"));
    world.bus.use(note("bus 2"));
    await world.bus.consume(topic, { group: "g", use: [note("own")] }, () => void steps.push("handler"));

    await world.bus.publish(topic, { n: 1 });
    await settle(world.runtime);

    assert.deepEqual(steps, [
      "bus 1 in",
      "bus 2 in",
      "own in",
      "handler",
      "own out",
      "bus 2 out",
      "bus 1 out",
    ]);
  });

  it("that was added after a consumer started is not its", async () => {
    const world = openBus();
    await world.bus.consume(topic, { group: "g" }, () => undefined);
    world.bus.use(() => assert.fail("called"));

    await world.bus.publish(topic, { n: 1 });
    await settle(world.runtime);

    assert.deepEqual(world.outcomes(), ["handled"]);
  });

  it("that throws fails the attempt like the handler", async () => {
    const world = openBus();
    const retry = { maxAttempts: 2, backoff: constant(10) };
    await world.bus.consume(topic, { group: "g", retry, use: [always] }, () => assert.fail("called"));

    await world.bus.publish(topic, { n: 1 });
    await world.runtime.advance(100);

    assert.deepEqual(world.outcomes(), ["retry", "deadLettered"]);
  });

  it("that forgets to return the outcome fails the attempt, and the dead letter says so", async () => {
    const world = openBus();
    const forgetful = async (_context: unknown, next: () => Promise<unknown>): Promise<never> => {
      await next();
      return undefined as never;
    };
    await world.bus.consume(
      topic,
      { group: "g", retry: { maxAttempts: 1 }, use: [forgetful] },
      () => undefined,
    );

    await world.bus.publish(topic, { n: 1 });
    await settle(world.runtime);

    const [letter] = await Array.fromAsync(world.bus.deadLetters(topic, { group: "g" }).list());
    assert.match(letter?.error.message ?? "", /a middleware gave no outcome but undefined/u);
  });

  it("cannot claim that a dead letter was stored elsewhere, and so lose the message", async () => {
    const world = openBus();
    const liar = async () => ({ kind: "deadLetter", reason: "odd", error: null, stored: true }) as const;
    await world.bus.consume(topic, { group: "g", use: [liar] }, () => undefined);

    await world.bus.publish(topic, { n: 1 });
    await settle(world.runtime);

    const letters = await Array.fromAsync(world.bus.deadLetters(topic, { group: "g" }).list());
    assert.equal(letters.length, 1);
  });

  it.each([7, {}, "x", [7]])("is refused when it is %j", async (use) => {
    const { bus } = openBus();
    assert.throws(() => bus.use(use as never), { code: "ERR_CONFIG" });
    await assert.rejects(
      bus.consume(topic, { group: "g", use: use as never }, () => undefined),
      { code: "ERR_CONFIG" },
    );
  });
});
