import assert from "node:assert/strict";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { createDeadlines } from "../../src/deadlines.ts";

function open() {
  const runtime = createFakeRuntime();
  const late: string[] = [];
  const deadlines = createDeadlines<{ name: string; deadline: number }>(runtime, ({ name }) =>
    late.push(name),
  );
  const add = (name: string, ms: number) => {
    const item = { name, deadline: runtime.monotonic() + ms };
    deadlines.add(item);
    return item;
  };
  return { runtime, late, deadlines, add };
}

describe("createDeadlines", () => {
  it("calls for each item at its own deadline, in whatever order they were added", async () => {
    const { runtime, late, add } = open();
    add("b", 200);
    add("a", 100);
    add("c", 300);

    await runtime.advance(99);
    assert.deepEqual(late, []);
    await runtime.advance(1);
    assert.deepEqual(late, ["a"]);
    await runtime.advance(100);
    assert.deepEqual(late, ["a", "b"]);
    await runtime.advance(1_000);
    assert.deepEqual(late, ["a", "b", "c"]);
    assert.equal(runtime.nextTimerMs, undefined);
  });

  it("forgets what was deleted, and then has no timer", async () => {
    const { runtime, late, deadlines, add } = open();
    const [one, two] = [add("one", 100), add("two", 200)];

    deadlines.delete(one);
    deadlines.delete(one);
    assert.deepEqual([...deadlines], [two]);
    await runtime.advance(150);
    assert.deepEqual(late, []);
    deadlines.delete(two);

    assert.equal(runtime.nextTimerMs, undefined);
  });

  it("takes what is added while it calls", async () => {
    const runtime = createFakeRuntime();
    const late: number[] = [];
    const deadlines = createDeadlines<{ deadline: number }>(runtime, ({ deadline }) => {
      late.push(runtime.monotonic());
      if (late.length === 1) deadlines.add({ deadline: deadline + 50 });
    });
    deadlines.add({ deadline: runtime.monotonic() + 100 });

    await runtime.advance(1_000);

    assert.equal(late.length, 2);
    assert.equal((late[1] ?? 0) - (late[0] ?? 0), 50);
  });
});
