/**
 * The look-out: sees that another connection, of whatever process, has committed. `PRAGMA data_version` says so, for a few
 * microseconds each time; it is asked when the file system tells that the log was written, and at intervals that grow while
 * nothing happens, because not every file system tells. Runs only while somebody listens.
 */
import type { Cancel, Runtime } from "../../src/spi.ts";

export interface WatchHost {
  /** Changes when another connection commits. */
  dataVersion(): number | undefined;
  /** Calls back when anybody has written the log, where the system can tell; may not call at all. */
  onLogWritten(listener: () => void): Cancel;
  /** Whether the file at the path is another one than the one that is open. */
  isReplaced(): boolean;
  replaced(): void;
  /** This process, or its clock, has missed some time. */
  stalled(): void;
}

const minIntervalMs = 2;
/** What a message of another process waits at most until it is seen, where the file system does not tell. */
const maxIntervalMs = 25;
/** The same once it has been seen to tell: only a net. */
const restIntervalMs = 250;
/** A look that comes so much later than asked for means that the process stood still. */
const stallMs = 1_000;
const identityIntervalMs = 1_000;

export class Watch {
  readonly #runtime: Runtime;
  readonly #host: WatchHost;
  readonly #listeners = new Map<() => void, string>();
  readonly #jumpListeners = new Set<() => void>();
  #cancelTimer: Cancel = () => undefined;
  #cancelHints: Cancel = () => undefined;
  #running = false;
  #intervalMs = minIntervalMs;
  #maxIntervalMs = maxIntervalMs;
  #version: number | undefined;
  #lookedAt = 0;
  #wallOffset = 0;
  #identityAt = 0;

  constructor(runtime: Runtime, host: WatchHost) {
    this.#runtime = runtime;
    this.#host = host;
  }

  add(topic: string, listener: () => void): Cancel {
    this.#listeners.set(listener, topic);
    if (!this.#running) this.#start();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.close();
    };
  }

  onClockJump(listener: () => void): Cancel {
    this.#jumpListeners.add(listener);
    return () => void this.#jumpListeners.delete(listener);
  }

  poke(topic: string): void {
    for (const [listener, of] of this.#listeners) if (of === topic) listener();
  }

  /** The file was opened anew. */
  restart(): void {
    if (!this.#running) return;
    this.close();
    this.#start();
  }

  close(): void {
    this.#running = false;
    this.#cancelTimer();
    this.#cancelHints();
  }

  /** Leases are wall time, so a stall of this process and a jump of the clock can both make them seem to have run out. */
  checkClocks(): void {
    if (!this.#running) return;
    const [now, wall] = [this.#runtime.monotonic(), this.#runtime.now()];
    if (now - this.#lookedAt > this.#intervalMs + stallMs) this.#host.stalled();
    this.#lookedAt = now;
    if (Math.abs(wall - now - this.#wallOffset) < stallMs) return;
    this.#wallOffset = wall - now;
    this.#host.stalled();
    for (const listener of this.#jumpListeners) listener();
  }

  #start(): void {
    this.#running = true;
    this.#lookedAt = this.#runtime.monotonic();
    this.#wallOffset = this.#runtime.now() - this.#lookedAt;
    this.#intervalMs = minIntervalMs;
    this.#maxIntervalMs = maxIntervalMs;
    this.#cancelHints = this.#host.onLogWritten(() => this.#hinted());
    this.#schedule();
  }

  /**
   * The log is written before its flush, and shows only after it: so now is too early, but soon is the time. Our own commits
   * tell too; under load hints are many and change nothing.
   */
  #hinted(): void {
    this.#maxIntervalMs = restIntervalMs;
    if (this.#intervalMs <= minIntervalMs) return;
    this.#cancelTimer();
    this.#intervalMs = minIntervalMs;
    this.#schedule();
  }

  #schedule(): void {
    this.#cancelTimer = this.#runtime.setTimer(this.#intervalMs, () => this.#look(), { unref: true });
  }

  #look(): void {
    if (!this.#running) return;
    this.checkClocks();
    const changed = this.#hasChanged();
    this.#intervalMs = changed ? minIntervalMs : Math.min(this.#intervalMs * 2, this.#maxIntervalMs);
    this.#schedule();
    if (changed) for (const listener of this.#listeners.keys()) listener();
  }

  #hasChanged(): boolean {
    try {
      if (this.#lookedAt - this.#identityAt > identityIntervalMs) {
        this.#identityAt = this.#lookedAt;
        if (this.#host.isReplaced()) this.#host.replaced();
      }
      const version = this.#host.dataVersion();
      const changed = version !== this.#version;
      this.#version = version;
      return changed;
    } catch {
      // Whatever it is, those who read and write meet it too and report it.
      return false;
    }
  }
}
