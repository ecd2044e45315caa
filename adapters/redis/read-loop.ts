/** The loop of one subscription: reads while there is credit, mends what it can, and keeps the streams trimmed. */
import { type MessagingError, type SubscribeSpec, jittered, retryLoop } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import { requestError } from "./errors.ts";
import { declareGroup, trim } from "./groups.ts";
import type { Holdings } from "./holdings.ts";
import type { Link } from "./link.ts";
import type { Reader } from "./reader.ts";
import type { Reports } from "./reports.ts";

/** How often what nobody needs any more is removed. */
const trimEveryMs = 5_000;

export interface ReadLoopContext {
  readonly connection: RedisConnection;
  readonly spec: SubscribeSpec;
  /** The connection the reader blocks. */
  readonly link: Link;
  readonly reader: Reader;
  readonly holdings: Holdings;
  readonly reports: Reports;
  /** Aborts when the subscription stops. */
  readonly stopping: AbortSignal;
  /** Whether something is wanted now. */
  readonly isRunning: () => boolean;
}

export class ReadLoop {
  readonly #context: ReadLoopContext;
  #wake: () => void = () => undefined;
  #error: MessagingError | undefined;
  #generation = 0;
  /** The group has vanished from the server. */
  #vanished = false;
  #settledSinceTrim = false;
  #trimAt = 0;
  /** When the read under way began: each ends within the time limit of its request. */
  #readAt: number;

  constructor(context: ReadLoopContext) {
    this.#context = context;
    this.#readAt = context.connection.runtime.monotonic();
  }

  /** Why it does not receive. */
  get error(): MessagingError | undefined {
    return this.#error;
  }

  /** How long it has been waiting for an answer; 0 when it does not ask. */
  get silentMs(): number {
    const { connection, holdings, isRunning } = this.#context;
    return isRunning() && holdings.credit > 0 ? connection.runtime.monotonic() - this.#readAt : 0;
  }

  /** Resolves when it has stopped, or its connections have ended. */
  async run(): Promise<void> {
    const { connection, link, stopping } = this.#context;
    const { runtime } = connection;
    const backoff = jittered(runtime, "consumer", 200, 5_000);
    this.#generation = link.generation;
    while (!stopping.aborted && !this.#ended) {
      await retryLoop(
        (ms) => runtime.sleep(ms, stopping),
        () => this.#step(),
        (error, attempt) => (stopping.aborted ? undefined : this.#mend(error, attempt, backoff)),
      ).catch(() => undefined); // Only stopping ends the loop, and `#mend` has said whatever else there was.
    }
    this.#error ??= link.error ?? connection.commands.error;
  }

  /** Looks again whether there is something to do. */
  wake(): void {
    this.#wake();
  }

  /** Something was settled. */
  settled(): void {
    this.#settledSinceTrim = true;
    this.#wake();
  }

  /** Its connections are closed, or were refused for good. */
  get #ended(): boolean {
    return this.#context.link.ended || this.#context.connection.commands.ended;
  }

  async #step(): Promise<void> {
    const { link, reader, holdings, isRunning } = this.#context;
    const credit = await this.#ready();
    if (credit === 0) return;
    if (this.#generation !== link.generation) {
      this.#generation = link.generation;
      reader.interrupted();
      await holdings.check();
    }
    if (this.#vanished) await this.#restoreGroup();
    await this.#trimSometimes();
    const entries = await reader.read(credit);
    this.#error = undefined;
    holdings.handOver(entries, isRunning());
  }

  /** Resolves with the credit when there is some and the server can be reached; with 0 when it is of no use to go on. */
  async #ready(): Promise<number> {
    const { connection, link, holdings, stopping, isRunning } = this.#context;
    const commands = connection.commands;
    while (!stopping.aborted) {
      await link.settled(stopping);
      await commands.settled(stopping);
      if (this.#ended) return 0;
      // Nothing is awaited between here and the wait: whatever wakes it comes after.
      const { credit } = holdings;
      if (stopping.aborted || !link.up || !commands.up) continue;
      if (isRunning() && credit > 0) {
        this.#readAt = connection.runtime.monotonic();
        return credit;
      }
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return 0;
  }

  /** How long to wait after a read that failed; what can be put right is, before the next one. */
  #mend(cause: unknown, attempt: number, backoff: (attempt: number) => number): number {
    const { reader, reports } = this.#context;
    const error = requestError("reading", cause);
    if (error.code === "ERR_CONNECTION_LOST") {
      reader.interrupted();
      return 0;
    }
    if (error.reply === "NOGROUP" || error.reply === "UNBLOCKED") {
      this.#vanished = true;
      return attempt === 1 ? 0 : backoff(attempt);
    }
    this.#error = error;
    reports.notReceiving(error);
    return backoff(attempt);
  }

  /** FLUSHALL, a deleted stream or group, a failover to an empty replica: all of it may have happened. */
  async #restoreGroup(): Promise<void> {
    const { connection, spec, holdings, reports } = this.#context;
    await declareGroup(connection, spec);
    const count = await holdings.check();
    this.#vanished = false;
    reports.vanished(count);
  }

  async #trimSometimes(): Promise<void> {
    const { connection, spec, reports } = this.#context;
    const now = connection.runtime.monotonic();
    if (!this.#settledSinceTrim || now < this.#trimAt) return;
    this.#trimAt = now + trimEveryMs;
    this.#settledSinceTrim = false;
    // Nobody has to wait for it: what is not removed now is later.
    await trim(connection, spec).catch(reports.notTrimmed);
  }
}
