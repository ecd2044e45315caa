import assert from "node:assert/strict";
import * as fc from "fast-check";
import { describe, it } from "vitest";
import { type Slot, createLanes } from "../../src/lanes.ts";

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A task that runs until it is told to end. */
function heldTask() {
  const { promise, resolve } = Promise.withResolvers<void>();
  const state = { started: false, ended: false, end: resolve, slot: undefined as Slot | undefined };
  const task = async (slot: Slot): Promise<void> => {
    state.started = true;
    state.slot = slot;
    await promise;
    state.ended = true;
  };
  return Object.assign(state, { task });
}

const started = (tasks: readonly { started: boolean }[]): number => tasks.filter((one) => one.started).length;

describe("createLanes", () => {
  it("runs at most as many tasks at once as it may, in the order they came", async () => {
    const lanes = createLanes(2);
    const tasks = Array.from({ length: 4 }, heldTask);
    for (const { task } of tasks) lanes.run(undefined, task);
    await turn();
    assert.deepEqual(
      tasks.map((one) => one.started),
      [true, true, false, false],
    );

    tasks[1]?.end();
    await turn();

    assert.deepEqual(
      tasks.map((one) => one.started),
      [true, true, true, false],
    );
  });

  it("runs the tasks of one lane one after another, and other lanes meanwhile", async () => {
    const lanes = createLanes(10);
    const [first, second, other] = [heldTask(), heldTask(), heldTask()];
    lanes.run("a", first.task);
    lanes.run("a", second.task);
    lanes.run("b", other.task);
    await turn();
    assert.deepEqual([first.started, second.started, other.started], [true, false, true]);

    first.end();
    await turn();

    assert.equal(second.started, true);
  });

  it("lets others run while a task waits, but keeps the task's lane closed", async () => {
    const lanes = createLanes(1);
    const { promise, resolve } = Promise.withResolvers<void>();
    const steps: string[] = [];
    lanes.run("a", async (slot) => {
      await slot.lendWhile(() => promise);
      steps.push("first of a");
    });
    lanes.run("a", async () => void steps.push("second of a"));
    lanes.run("b", async () => void steps.push("b"));
    await turn();
    assert.deepEqual(steps, ["b"]);

    resolve();
    await turn();

    assert.deepEqual(steps, ["b", "first of a", "second of a"]);
  });

  it("takes a place again before a wait that failed is known", async () => {
    const lanes = createLanes(1);
    const other = heldTask();
    const steps: string[] = [];
    const { promise, reject } = Promise.withResolvers<void>();
    lanes.run(undefined, async (slot) => {
      await slot.lendWhile(() => promise).catch(() => void steps.push("failed"));
    });
    lanes.run(undefined, other.task);
    await turn();
    reject(new Error("wait"));
    await turn();
    assert.deepEqual(steps, [], "went on while the only place was taken");

    other.end();
    await turn();

    assert.deepEqual(steps, ["failed"]);
  });

  it("takes a place again after a wait that throws at once", async () => {
    const lanes = createLanes(1);
    const steps: string[] = [];
    lanes.run(undefined, async (slot) => {
      await slot.lendWhile(() => assert.fail("at once")).catch(() => void steps.push("failed"));
    });
    lanes.run(undefined, async () => void steps.push("other"));
    await turn();

    assert.deepEqual(steps.toSorted(), ["failed", "other"]);
  });

  it("gives a freed place to who waited longest, whatever lane it is in", async () => {
    const lanes = createLanes(1);
    const hot = Array.from({ length: 3 }, heldTask);
    const cold = heldTask();
    for (const { task } of hot) lanes.run("hot", task);
    lanes.run("cold", cold.task);
    await turn();

    hot[0]?.end();
    await turn();

    assert.equal(cold.started, true, "a hot lane starved another");
    assert.equal(started(hot), 1);
  });

  it("forgets a lane that is empty", async () => {
    const lanes = createLanes(1);
    for (let i = 0; i < 3; i++) {
      const { task, end } = heldTask();
      lanes.run("a", task);
      await turn();
      end();
      await turn();
    }
    const last = heldTask();
    lanes.run("a", last.task);
    await turn();

    assert.equal(last.started, true);
  });

  it("keeps all of this for any plan of tasks and waits", async () => {
    const task = fc.record({
      lane: fc.option(fc.constantFrom("a", "b", "c"), { nil: undefined }),
      /** Steps of work; `true` lends the place meanwhile. */
      steps: fc.array(fc.boolean(), { maxLength: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.array(task, { maxLength: 25 }),
        async (places, tasks) => {
          const lanes = createLanes(places);
          const inLane = new Map<string, number>();
          const order = new Map<string, number[]>();
          let working = 0;
          let ended = 0;
          const work = async (): Promise<void> => {
            working += 1;
            assert.ok(working <= places, `${working} at once, ${places} allowed`);
            await turn();
            working -= 1;
          };
          tasks.forEach(({ lane, steps }, index) => {
            lanes.run(lane, async (slot) => {
              if (lane !== undefined) {
                assert.equal(inLane.get(lane) ?? 0, 0, "two tasks of one lane overlap");
                inLane.set(lane, 1);
                order.set(lane, [...(order.get(lane) ?? []), index]);
              }
              for (const lend of steps) await (lend ? slot.lendWhile(turn) : work());
              await work();
              if (lane !== undefined) inLane.set(lane, 0);
              ended += 1;
            });
          });
          for (let i = 0; ended < tasks.length; i++) {
            assert.ok(i < 1_000, "stuck");
            await turn();
          }
          for (const indexes of order.values())
            assert.deepEqual(
              indexes,
              indexes.toSorted((a, b) => a - b),
            );
        },
      ),
      { numRuns: 50 },
    );
  });

  it("knows which lanes are busy: those with a task that runs or waits", async () => {
    const lanes = createLanes(1);
    const [first, second] = [heldTask(), heldTask()];

    lanes.run("a", first.task);
    lanes.run("b", second.task);
    assert.deepEqual(
      ["a", "b", "c", undefined].map((lane) => lanes.isBusy(lane)),
      [true, true, false, false],
    );
    first.end();
    await turn();

    assert.deepEqual(
      ["a", "b"].map((lane) => lanes.isBusy(lane)),
      [false, true],
    );
  });
});
