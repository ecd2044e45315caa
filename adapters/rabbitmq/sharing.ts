/**
 * Who of the ordered instances of a group consumes which partitions, without anybody who says so: each counts how many there
 * are, takes what nobody has up to its share, and lets go of what is more when others come. A partition is let go at a quiet
 * point, when all that was handed over of it is settled, and the turn (`turn.ts`) makes sure that nobody consumes it
 * twice, whatever the instances believe.
 *
 * The queue of the group itself has a turn too. In it is what was sent before there were partitions, and that comes first;
 * later only what strangers publish and what was sent with more partitions than there are here.
 */
import type { MessagingError } from "../../src/spi.ts";
import { onThrowAwayChannel } from "./channel.ts";
import type { Session } from "./connection.ts";
import { type ConsumerHost, lookForQueue } from "./queue-consumer.ts";
import { Signs } from "./signs.ts";
import type { Stream } from "./stream.ts";
import { type Turn, takeTurn, tryTurn, untilAlone } from "./turn.ts";

/** The turn at the group's own queue. */
export interface Place {
  readonly turn: Turn;
  /** To be called with the stream that consumes it. */
  begin(stream: Stream): void;
}

const lookMs = 1_000;
/** Between two looks of an instance that misses something. */
const soonMs = 250;
/** What a publisher routed before a partition was bound may be on its way for so long. */
const routedMs = 250;
/** How long a partition that is to be let go may settle nothing, as when a message of it is tried again and again. */
const patienceMs = 30_000;
/** It is kept then, for so long: while it is to be let go its other keys stand still. */
const stuckMs = 300_000;

export class Sharing {
  readonly #host: ConsumerHost;
  readonly #queue: string;
  readonly #stopping = new AbortController();
  readonly #owned = new Map<string, Stream>();
  readonly #leaving = new Set<Stream>();
  /** Partitions that could not be let go, and until when they are kept. */
  readonly #stuck = new Map<string, number>();
  #error: MessagingError | undefined;
  #suspect: { readonly queue: string; readonly error: MessagingError } | undefined;

  constructor(host: ConsumerHost) {
    this.#host = host;
    this.#queue = host.declarations.names(host.spec).queue;
  }

  /** Why it has no share. */
  get error(): MessagingError | undefined {
    return this.#error;
  }

  /** Takes part until it is stopped; never rejects. */
  async run(): Promise<void> {
    const { link, declarations, spec } = this.#host;
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      try {
        const session = await link.ready(signal);
        const shared = spec.topic.partitions > 1 || (await declarations.isPartitioned(session, spec));
        this.#error = undefined;
        if (!shared) return;
        await this.#takePart(session, AbortSignal.any([signal, session.ended]));
      } catch (error) {
        if (signal.aborted) return;
        this.#error = error as MessagingError;
        if (this.#error.code === "ERR_DESTINATION") declarations.forgetGroup(spec);
        // The loop sees for itself when it is to end.
        await this.#wait(lookMs, signal).catch(() => undefined);
      }
    }
  }

  /** Takes nothing more, and leaves the others what it has when its streams end. */
  stop(): void {
    this.#stopping.abort();
  }

  /**
   * Stands by until nobody else consumes the group's own queue. Then it is divided into partitions, so that what was in it
   * before can be told from what comes after.
   */
  async takeGroupQueue(session: Session): Promise<Place> {
    const { context, declarations, spec, closing } = this.#host;
    const turn = await takeTurn(context, session, this.#queue, closing);
    try {
      const partitions = await declarations.ensurePartitions(session, spec);
      if (partitions.length === 0) return { turn, begin: () => undefined };
      const stop = AbortSignal.any([closing, session.ended]);
      await context.runtime.sleep(routedMs, stop);
      // Without order somebody may have begun meanwhile.
      await untilAlone(context, session, this.#queue, stop);
      const { messageCount } = await onThrowAwayChannel(session, `queue \`${this.#queue}\``, (channel) =>
        channel.checkQueue(this.#queue),
      );
      return { turn, begin: (stream) => void this.#tellWhenDrained(session, stream, messageCount) };
    } catch (error) {
      await turn.release().catch(() => undefined);
      throw error;
    }
  }

  /** Tells the others when the first `count` messages of the group's own queue are settled. */
  async #tellWhenDrained(session: Session, stream: Stream, count: number): Promise<void> {
    const over = new AbortController();
    void stream.over.then(() => over.abort());
    while (!over.signal.aborted) {
      let signs: Signs | undefined;
      try {
        signs = await Signs.open(session, this.#queue);
        while (!stream.isDoneWith(count)) {
          // A person may have removed some.
          if (stream.isEmpty && (await signs.look(this.#queue)).messageCount === 0) break;
          await this.#wait(soonMs, over.signal);
        }
        await signs.give("drained");
        while (!signs.ended.aborted) await this.#wait(lookMs, over.signal);
      } catch {
        await this.#wait(soonMs, over.signal).catch(() => undefined);
      } finally {
        signs?.close();
      }
    }
  }

  /** Until the connection ends. */
  async #takePart(session: Session, stop: AbortSignal): Promise<void> {
    const { declarations, spec } = this.#host;
    const signs = await Signs.open(session, this.#queue);
    try {
      while ((await signs.count("drained")) === 0) await this.#wait(soonMs, stop);
      await signs.give("members");
      for (;;) {
        if (this.#suspect !== undefined) {
          await lookForQueue(this.#host, session, this.#suspect.queue, this.#suspect.error);
          this.#suspect = undefined;
        }
        const partitions = await declarations.ensurePartitions(session, spec);
        for (let content = false; this.#suspect === undefined;) {
          content = await this.#look(session, signs, partitions);
          await this.#wait(content ? lookMs : soonMs, stop);
        }
      }
    } finally {
      signs.close();
    }
  }

  /** Compares what it has with its share. `false`: it has less than any should. */
  async #look(session: Session, signs: Signs, partitions: readonly string[]): Promise<boolean> {
    const members = (await signs.count("members")) + 1;
    const othersShort = (await signs.count("short")) > 0;
    const least = Math.floor(partitions.length / members);
    const most = Math.ceil(partitions.length / members);
    const share = othersShort ? least : most;
    const kept = (): number => this.#owned.size - this.#leaving.size;
    if (kept() > share) this.#letGo(kept() - share);
    else if (kept() < share) await this.#take(session, signs, partitions, share - kept());
    const content = kept() >= least;
    await (content ? signs.withdraw("short") : signs.give("short"));
    return content;
  }

  #letGo(count: number): void {
    const now = this.#host.context.runtime.monotonic();
    const [...streams] = this.#owned.values();
    const quietest = streams
      .filter((stream) => !this.#leaving.has(stream) && (this.#stuck.get(stream.queue) ?? 0) <= now)
      .toSorted((a, b) => a.held - b.held)
      .slice(0, count);
    for (const stream of quietest) {
      this.#leaving.add(stream);
      void stream.leave(patienceMs).then((left) => {
        if (!left) this.#stuck.set(stream.queue, this.#host.context.runtime.monotonic() + stuckMs);
        this.#leaving.delete(stream);
      });
    }
  }

  /** Takes up to `count` partitions that nobody has. */
  async #take(session: Session, signs: Signs, partitions: readonly string[], count: number): Promise<void> {
    const { context } = this.#host;
    const { signal } = this.#stopping;
    // From anywhere, so that those who start together do not go for the same.
    const first = Math.floor(context.runtime.random("sharing") * partitions.length);
    const inTurn = [...partitions.slice(first), ...partitions.slice(0, first)];
    for (const queue of inTurn) {
      if (count === 0) return;
      if (this.#owned.has(queue) || (await signs.look(queue)).consumerCount > 0) continue;
      const turn = await tryTurn(context, session, queue, signal);
      if (turn === undefined) continue;
      const stream = await this.#host.openStream(session, queue, turn, (ended) => this.#onEnd(ended));
      this.#owned.set(queue, stream);
      count -= 1;
    }
  }

  #onEnd(stream: Stream): void {
    const { queue, error } = stream;
    if (this.#owned.get(queue) === stream) this.#owned.delete(queue);
    const expected = error?.code === "ERR_CONNECTION_LOST" || error?.code === "ERR_CLOSED";
    if (error !== undefined && !expected) this.#suspect = { queue, error };
  }

  /** Spread, so that instances do not look all at once. */
  #wait(ms: number, stop: AbortSignal): Promise<void> {
    const { runtime } = this.#host.context;
    return runtime.sleep(ms * (0.75 + runtime.random("sharing") / 2), stop);
  }
}
