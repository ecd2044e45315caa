/** A runtime whose clock stands still until it is told to advance. For policies: no test of them ever waits. */
import { type Cancel, type Runtime, sleepWith } from "../clock.ts";
import { createIdGenerator } from "../ids.ts";

export interface FakeRuntime extends Runtime {
  /**
   * Moves time on by `ms`, firing timers in order, each at its own time, and lets what they started settle (as far as
   * promises go: real I/O is not waited for).
   */
  advance(ms: number): Promise<void>;
  /** Moves only the wall clock, as an administrator or a time server does. */
  jumpWallClock(ms: number): void;
  /** Milliseconds until the next timer, or `undefined` when there is none. */
  readonly nextTimerMs: number | undefined;
}

export interface FakeRuntimeOptions {
  /** Wall clock at the start, epoch milliseconds. */
  readonly now?: number | undefined;
  /** Seed of all randomness. */
  readonly seed?: number | undefined;
}

interface Timer {
  readonly at: number;
  readonly order: number;
  readonly fn: () => void;
}

/** @example const runtime = createFakeRuntime(); const bus = createBus({ adapter: memory(), runtime }); await runtime.advance(1_000); */
export function createFakeRuntime(options: FakeRuntimeOptions = {}): FakeRuntime {
  let monotonic = 0;
  let wallOffset = options.now ?? Date.UTC(2026, 0, 1);
  let order = 0;
  const timers = new Set<Timer>();
  const streams = new Map<string, () => number>();

  const random = (stream: string): number => {
    let next = streams.get(stream);
    if (next === undefined) {
      next = mulberry32((options.seed ?? 1) ^ hash(stream));
      streams.set(stream, next);
    }
    return next();
  };

  const setTimer = (ms: number, fn: () => void): Cancel => {
    const timer: Timer = { at: monotonic + Math.max(0, ms), order: (order += 1), fn };
    timers.add(timer);
    return () => void timers.delete(timer);
  };

  const next = (): Timer | undefined => {
    let first: Timer | undefined;
    for (const timer of timers) {
      if (first === undefined || timer.at < first.at || (timer.at === first.at && timer.order < first.order))
        first = timer;
    }
    return first;
  };

  const now = (): number => Math.floor(wallOffset + monotonic);
  return {
    now,
    monotonic: () => monotonic,
    setTimer,
    sleep: (ms, signal) => sleepWith(setTimer, ms, signal),
    random,
    newId: createIdGenerator(now, (bytes) => {
      for (let i = 0; i < bytes.length; i++) bytes[i] = Math.floor(random("id") * 256);
    }),
    defer: (fn) => void setImmediate(fn),
    async advance(ms) {
      const until = monotonic + ms;
      await settle();
      for (let timer = next(); timer !== undefined && timer.at <= until; timer = next()) {
        monotonic = Math.max(monotonic, timer.at);
        timers.delete(timer);
        timer.fn();
        await settle();
      }
      monotonic = until;
    },
    jumpWallClock: (ms) => void (wallOffset += ms),
    get nextTimerMs() {
      const first = next();
      return first === undefined ? undefined : first.at - monotonic;
    },
  };
}

/** Lets promises and deferred calls run until they have nothing more to do. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
}

function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}

function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
