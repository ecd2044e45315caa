import assert from "node:assert/strict";
import * as fc from "fast-check";
import { createFakeRuntime } from "postrider/testing";
import { describe, it } from "vitest";
import { nodeRuntime } from "../../src/clock.ts";
import { createIdGenerator } from "../../src/ids.ts";

const uuid7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/u;
const noRandomness = (bytes: Uint8Array): void => void bytes.fill(0);

describe("createIdGenerator", () => {
  it("makes UUIDs of version 7 that begin with the time", () => {
    const id = createIdGenerator(() => 0x123_4567_89ab, noRandomness)();

    assert.match(id, uuid7);
    assert.equal(id, "01234567-89ab-7000-8000-000000000000");
  });

  it("only ever increases, however the clock jumps, and even without any randomness", () => {
    const clock = fc.array(fc.integer({ min: 0, max: 2 ** 45 }), { minLength: 2, maxLength: 50 });
    fc.assert(
      fc.property(clock, (times) => {
        const left = [...times];
        const next = createIdGenerator(() => left.shift() ?? 0, noRandomness);
        const ids = times.map(() => next());
        assert.deepEqual(ids, ids.toSorted());
        assert.equal(new Set(ids).size, ids.length);
      }),
    );
  });

  it("goes on increasing when one millisecond needs more ids than the counter has", () => {
    const next = createIdGenerator(() => 1_000, noRandomness);
    const ids = Array.from({ length: 10_000 }, next);

    assert.deepEqual(ids, ids.toSorted());
    assert.equal(new Set(ids).size, ids.length);
    assert.ok(ids.every((id) => uuid7.test(id)));
  });

  it("makes well-formed ids of a clock that counts fractions of a millisecond", () => {
    const next = createIdGenerator(() => 1_700_000_000_000.5, noRandomness);

    assert.match(next(), uuid7);
  });

  it("never gives one id to two processes that share every millisecond", () => {
    const runtimes = [1, 2].map((seed) => createFakeRuntime({ seed }));
    const ids = runtimes.flatMap((runtime) => Array.from({ length: 2_000 }, () => runtime.newId()));

    assert.equal(new Set(ids).size, ids.length);
  });
});

describe("the runtime's ids", () => {
  it("are well-formed, unique and increasing", () => {
    const ids = Array.from({ length: 5_000 }, () => nodeRuntime.newId());

    assert.ok(ids.every((id) => uuid7.test(id)));
    assert.deepEqual(ids, ids.toSorted());
    assert.equal(new Set(ids).size, ids.length);
  });
});
