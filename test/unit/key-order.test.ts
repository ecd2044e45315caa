import assert from "node:assert/strict";
import * as fc from "fast-check";
import { describe, it } from "vitest";
import { type Turn, createKeyOrder } from "../../src/key-order.ts";

/** A send that notes when it was started. */
function entering(order: ReturnType<typeof createKeyOrder>, key: string | undefined) {
  const turn = order.enter(key);
  const send = { turn, starts: 0, try: () => turn.start(() => ((send.starts += 1), Promise.resolve())) };
  return send;
}

describe("createKeyOrder", () => {
  it("starts everything at once while nothing fails", () => {
    const order = createKeyOrder();
    const sends = ["a", "a", "b", undefined].map((key) => entering(order, key));
    for (const send of sends) void send.try();

    assert.deepEqual(
      sends.map(({ starts }) => starts),
      [1, 1, 1, 1],
    );
  });

  it("after a failure lets only the oldest of the key try, then the next", () => {
    const order = createKeyOrder();
    const [first, second, third] = [entering(order, "a"), entering(order, "a"), entering(order, "a")];
    for (const send of [first, second, third]) void send.try();
    first.turn.failed();
    second.turn.failed();
    third.turn.end();

    void second.try();
    assert.equal(second.starts, 1, "overtook the first");
    void first.try();
    assert.equal(first.starts, 2);
    first.turn.end();

    assert.equal(second.starts, 2);
  });

  it("lets new sends wait until all that was under way at the failure is over, then all of them go", () => {
    const order = createKeyOrder();
    const old = entering(order, "a");
    void old.try();
    old.turn.failed();
    const fresh = [entering(order, "a"), entering(order, "a")];
    for (const send of fresh) void send.try();
    assert.deepEqual(
      fresh.map(({ starts }) => starts),
      [0, 0],
    );

    old.turn.end();

    assert.deepEqual(
      fresh.map(({ starts }) => starts),
      [1, 1],
    );
  });

  it("does not hold up other keys, or messages without one", () => {
    const order = createKeyOrder();
    const stuck = entering(order, "a");
    void stuck.try();
    stuck.turn.failed();
    const others = ["b", undefined, undefined].map((key) => entering(order, key));
    for (const send of others) void send.try();

    assert.deepEqual(
      others.map(({ starts }) => starts),
      [1, 1, 1],
    );
  });

  it("goes on when the oldest gives up, and when one in the middle does", () => {
    const order = createKeyOrder();
    const sends = [1, 2, 3].map(() => entering(order, "a"));
    for (const send of sends) void send.try();
    for (const send of sends) send.turn.failed();
    for (const send of sends) void send.try();
    sends[1]?.turn.end();
    sends[0]?.turn.end();

    assert.equal(sends[2]?.starts, 2);
  });

  it("forgets a key of which nothing is left", () => {
    const order = createKeyOrder();
    const sends = ["a", "a", "b"].map((key) => entering(order, key));
    for (const { turn } of sends) {
      turn.end();
      turn.end();
    }

    assert.equal(order.size, 0);
  });

  it("passes on what a send comes to", async () => {
    const order = createKeyOrder();
    const [first, second] = [order.enter("a"), order.enter("a")];
    first.failed();
    const late = Promise.allSettled([second.start(() => Promise.reject(new Error("refused")))]);
    first.end();

    assert.equal((await late)[0]?.status, "rejected");
    assert.equal(await order.enter("b").start(() => Promise.resolve(7)), 7);
  });

  it("never starts a send while an older one of its key has failed and is not over, and starts each in the end", () => {
    const command = fc.record({
      do: fc.constantFrom("enter", "fail", "end", "retry"),
      which: fc.nat(9),
      key: fc.constantFrom("a", "b"),
    });
    fc.assert(
      fc.property(fc.array(command, { maxLength: 80, size: "max" }), (commands) => {
        const order = createKeyOrder();
        interface Send {
          readonly key: string;
          readonly turn: Turn;
          state: "waiting" | "started" | "failed" | "over";
        }
        const sends: Send[] = [];
        const tryIt = (send: Send): void => {
          send.state = "waiting";
          void send.turn.start(() => {
            const older = sends
              .slice(0, sends.indexOf(send))
              .filter((one) => one.key === send.key && one.state !== "over");
            assert.ok(
              older.every((one) => one.state === "started"),
              "overtook a send that failed or waits",
            );
            send.state = "started";
            return Promise.resolve();
          });
        };
        for (const { do: action, which, key } of commands) {
          if (action === "enter") {
            const send: Send = { key, turn: order.enter(key), state: "waiting" };
            sends.push(send);
            tryIt(send);
            continue;
          }
          const wanted = action === "retry" ? "failed" : "started";
          const candidates = sends.filter((one) => one.state === wanted);
          const send = candidates[which % Math.max(1, candidates.length)];
          if (send === undefined) continue;
          if (action === "retry") tryIt(send);
          else if (action === "fail") {
            send.state = "failed";
            send.turn.failed();
          } else {
            send.state = "over";
            send.turn.end();
          }
        }
        // Everybody tries again until all are over: nothing may be stuck.
        for (let left = sends.length * 3; left > 0; left--) {
          for (const send of sends) {
            if (send.state === "failed") tryIt(send);
            if (send.state !== "started") continue;
            send.state = "over";
            send.turn.end();
          }
        }
        assert.deepEqual(
          sends.filter((one) => one.state !== "over"),
          [],
        );
        assert.equal(order.size, 0);
      }),
      { numRuns: 500 },
    );
  });
});
