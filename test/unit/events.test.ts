import assert from "node:assert/strict";
import * as diagnostics from "node:diagnostics_channel";
import { type BusEvent, type Logger, SettleError, eventChannel } from "postrider";
import { afterEach, beforeEach, describe, it } from "vitest";
import { bindLogger } from "../../src/context.ts";
import { createEmitter, logEvents, warnOnce } from "../../src/events.ts";

const warning = (code: string): BusEvent => ({ type: "warning", code, message: `${code} matters` });
const handled: BusEvent = { type: "handled", topic: "t", group: "g", messageId: "1", attempt: 1 };

const warnings: Error[] = [];
const onWarning = (one: Error): void => void warnings.push(one);
/** Warnings are emitted on the next turn. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

beforeEach(() => {
  warnings.length = 0;
  process.on("warning", onWarning);
});
afterEach(() => void process.off("warning", onWarning));

function memoryLogger(): Logger & { readonly lines: unknown[][] } {
  const lines: unknown[][] = [];
  const log =
    (level: string) =>
    (...line: unknown[]): void =>
      void lines.push([level, ...line]);
  return { lines, debug: log("debug"), info: log("info"), warn: log("warn"), error: log("error") };
}

describe("createEmitter", () => {
  it("gives each event to every listener and to the diagnostics channel", () => {
    const got: BusEvent[] = [];
    const subscriber = (event: unknown): void => void got.push(event as BusEvent);
    diagnostics.subscribe(eventChannel, subscriber);

    createEmitter([(event) => void got.push(event), (event) => void got.push(event)])(handled);
    diagnostics.unsubscribe(eventChannel, subscriber);

    assert.deepEqual(got, [handled, handled, handled]);
  });

  it.each<[string, () => unknown]>([
    [
      "throws",
      () => {
        throw new Error("listener");
      },
    ],
    ["rejects", () => Promise.reject(new Error("listener"))],
    [
      "rejects by a promise of its own kind",
      // oxlint-disable-next-line unicorn/no-thenable -- what is tested
      () => ({ then: (_ok: unknown, no: (e: unknown) => void) => no("listener") }),
    ],
    [
      "throws what cannot be turned into text",
      () => {
        throw Object.create(null);
      },
    ],
  ])("is not disturbed by a listener that %s, and complains once", async (_how, listener) => {
    const got: BusEvent[] = [];
    const emit = createEmitter([listener, (event) => void got.push(event)]);

    emit(handled);
    emit(handled);
    await turn();
    await turn();

    assert.equal(got.length, 2);
    assert.equal(warnings.length, 1);
    assert.equal(warnings[0]?.name, "PostriderWarning");
  });
});

describe("logEvents", () => {
  it("writes the type as the message, the fields as details and the error as err", () => {
    const logger = memoryLogger();
    const error = new SettleError("failed");

    logEvents(logger)({
      type: "settleFailed",
      error,
      delayMs: 5,
      topic: "t",
      group: "g",
      messageId: "1",
      attempt: 1,
    });

    assert.deepEqual(logger.lines, [
      [
        "error",
        { delayMs: 5, topic: "t", group: "g", messageId: "1", attempt: 1, err: error },
        "postrider: settleFailed",
      ],
    ]);
  });

  it("says warnings in their own words", () => {
    const logger = memoryLogger();

    logEvents(logger)(warning("APPENDONLY"));

    assert.deepEqual(logger.lines[0]?.[0], "warn");
    assert.equal(logger.lines[0]?.[2], "postrider: APPENDONLY matters");
  });

  it("does not disturb the bus when the logger throws or rejects", async () => {
    const broken = { debug: () => Promise.reject(new Error("disk full")) } as unknown as Logger;

    const emit = createEmitter([logEvents(broken)]);
    emit(handled);
    emit({ type: "connected", adapter: "a" });
    await turn();

    assert.equal(warnings.length, 1);
  });
});

describe("warnOnce", () => {
  it("says each kind of warning once, with its code, and nothing else", async () => {
    const listen = warnOnce();
    for (const event of [warning("A"), handled, warning("B"), warning("A")]) listen(event);
    await turn();

    assert.deepEqual(
      warnings.map((one) => [(one as Error & { code?: string }).code, one.message]),
      [
        ["A", "A matters"],
        ["B", "B matters"],
      ],
    );
  });
});

describe("a handler's logger", () => {
  it("adds what is known of the message to each line", () => {
    const logger = memoryLogger();

    bindLogger(logger, { messageId: "1" }).warn({ total: 5 }, "odd total");

    assert.deepEqual(logger.lines, [["warn", { messageId: "1", total: 5 }, "odd total"]]);
  });

  it("never fails a handler", async () => {
    const reject = (): Promise<never> => Promise.reject(new Error("disk full"));
    const broken = { info: reject, warn: () => assert.fail("broken") } as unknown as Logger;

    for (const logger of [undefined, broken]) {
      const log = bindLogger(logger, {});
      log.info({});
      log.warn({}, "text");
      log.error({}, "text");
    }
    await turn();
  });
});
