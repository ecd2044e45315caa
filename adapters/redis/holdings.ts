/** What one subscription has handed over and not settled: hands over, settles, gives back, and says what was lost. */
import type { DeliverySink, HeaderPatch, RawDelivery, SettleResult, SubscribeSpec } from "../../src/spi.ts";
import type { RedisConnection } from "./connection.ts";
import type { Claim, Held, ReadEntry } from "./entry.ts";
import { groupKeys } from "./keys.ts";
import { decodeMessage } from "./mapping.ts";
import type { Reports } from "./reports.ts";
import { type Settler, createSettler } from "./settle.ts";
import { Window } from "./window.ts";

export interface HoldingsContext {
  readonly connection: RedisConnection;
  readonly spec: SubscribeSpec;
  readonly sink: DeliverySink;
  readonly reports: Reports;
  /** Something is held no longer. */
  readonly onFreed: () => void;
  /** Entries of these claims were given back; `isSure` when the server has said so of all. */
  readonly onGivenBack: (claims: ReadonlySet<Claim>, isSure: boolean) => void;
}

export class Holdings {
  readonly #context: HoldingsContext;
  readonly #window: Window;
  readonly #settler: Settler;
  readonly #settling = new Set<Promise<unknown>>();

  constructor(context: HoldingsContext) {
    const { connection, spec } = context;
    this.#context = context;
    this.#window = new Window(spec.prefetch);
    this.#settler = createSettler({
      connection,
      keys: groupKeys(connection.prefix, spec),
      topic: spec.topic.name,
      group: spec.group,
      heldBy: (claim) => this.#window.heldBy(claim),
    });
  }

  /** How many entries may be read now. */
  get credit(): number {
    return this.#window.credit;
  }

  has(entry: Pick<ReadEntry, "source" | "id">): boolean {
    return this.#window.has(entry);
  }

  heldBy(claim: Claim): number {
    return this.#window.heldBy(claim);
  }

  /** Hands over as many as may be; what is beyond the credit, or came when nothing was wanted any more, is given back. */
  handOver(entries: readonly ReadEntry[], wanted: boolean): void {
    // Claimed by ourselves, because the lease ran out unnoticed, is what goes on being handled.
    const helds = entries.filter((entry) => !this.#window.has(entry)).map((entry) => this.#hold(entry));
    const { taken, left } = wanted ? this.#window.take(helds) : { taken: [], left: helds };
    if (left.length > 0) this.#giveBack(left);
    if (taken.length > 0) this.#context.sink.deliver(taken.map(({ delivery }) => delivery));
  }

  ack(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    return this.#settle(deliveries, (helds) => this.#settler.ack(helds));
  }

  defer(delivery: RawDelivery, delayMs: number, patch: HeaderPatch): Promise<SettleResult> {
    return this.#settleOne(delivery, (held) => this.#settler.defer(held, delayMs, patch));
  }

  deadLetter(delivery: RawDelivery, patch: HeaderPatch): Promise<SettleResult> {
    return this.#settleOne(delivery, (held) => this.#settler.deadLetter(held, patch));
  }

  async release(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    const helds = deliveries.map((delivery) => this.#window.of(delivery));
    const results = await this.#settle(deliveries, (ours) => this.#settler.release(ours));
    this.#context.onGivenBack(claimsOf(helds.filter((held) => held !== undefined)), true);
    return results;
  }

  async extend(deliveries: readonly RawDelivery[]): Promise<readonly SettleResult[]> {
    const helds = deliveries.map((delivery) => this.#window.of(delivery));
    const results = await this.#extend(helds.filter((held) => held !== undefined));
    return helds.map((held) =>
      held === undefined ? { status: "stale" } : (results.get(held) as SettleResult),
    );
  }

  /** After a break: what ran out meanwhile, or was lost with the server, is not ours any more. Resolves with how many. */
  async check(): Promise<number> {
    const helds = this.#window.values();
    const results = await this.#extend(helds);
    return helds.filter((held) => results.get(held)?.status === "stale").length;
  }

  /** What was handed over as these is not ours any more. */
  disown(claims: readonly Claim[]): void {
    this.#lose(this.#window.values().filter(({ claim }) => claims.includes(claim)));
  }

  /** Resolves when no settling is under way. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#settling);
  }

  /** Gives back what nobody settles any more. */
  async giveAllBack(): Promise<void> {
    const helds = this.#window.values();
    this.#window.clear();
    await this.#settler.release(helds);
  }

  #hold(entry: ReadEntry): Held {
    const { topic, group } = this.#context.spec;
    const { source, id, fields, redeliveries } = entry;
    const position = source === "main" ? id : `${group}/${id}`;
    const message = decodeMessage(fields);
    const delivery = { topic: topic.name, group, message, position, redeliveries, token: entry };
    return { ...entry, delivery, orphaned: false, unanswered: false };
  }

  #giveBack(surplus: readonly Held[]): void {
    const released = this.#settler.release(surplus).then((results) => {
      // Where it failed: still pending for us, and found again like a hand-over that got lost.
      const isSure = results.every(({ status }) => status !== "failed");
      this.#context.onGivenBack(claimsOf(surplus), isSure);
    });
    this.#track(released);
  }

  async #settleOne(delivery: RawDelivery, act: (held: Held) => Promise<SettleResult>): Promise<SettleResult> {
    const results = await this.#settle([delivery], async ([held]) => [await act(held as Held)]);
    return results[0] as SettleResult;
  }

  /** Settles what is ours; all that has an end is ours no longer. */
  #settle(
    deliveries: readonly RawDelivery[],
    act: (helds: readonly Held[]) => Promise<readonly SettleResult[]>,
  ): Promise<readonly SettleResult[]> {
    const helds = deliveries.map((delivery) => this.#window.of(delivery));
    const ours = helds.filter((held) => held !== undefined);
    if (ours.length === 0) return Promise.resolve(helds.map(() => ({ status: "stale" })));
    const settled = act(ours).then((results) => {
      ours.forEach((held, i) => {
        if (results[i]?.status !== "failed") this.#forget(held);
      });
      let i = 0;
      return helds.map((held): SettleResult =>
        held === undefined ? { status: "stale" } : (results[i++] as SettleResult),
      );
    });
    this.#track(settled);
    return settled;
  }

  #track(work: Promise<unknown>): void {
    this.#settling.add(work);
    const forget = (): void => void this.#settling.delete(work);
    work.then(forget, forget);
  }

  #forget(held: Held): void {
    this.#window.forget(held);
    this.#context.onFreed();
  }

  /** Renews leases; says at once which deliveries are not ours any more. */
  async #extend(helds: readonly Held[]): Promise<ReadonlyMap<Held, SettleResult>> {
    // What exists only here cannot be taken by anybody.
    const known = helds.filter(({ orphaned }) => !orphaned);
    const settled = known.length === 0 ? [] : await this.#settler.extend(known);
    const results = new Map<Held, SettleResult>(helds.map((held) => [held, { status: "done" }]));
    const stale: Held[] = [];
    let orphans = 0;
    known.forEach((held, i) => {
      const result = settled[i] ?? { status: "stale" };
      if (result.status === "orphaned") {
        held.orphaned = true;
        orphans += 1;
        return;
      }
      results.set(held, result);
      if (result.status === "stale") stale.push(held);
    });
    if (orphans > 0) this.#context.reports.orphaned(orphans);
    this.#lose(stale);
    return results;
  }

  #lose(helds: readonly Held[]): void {
    const lost = helds.filter((held) => this.#window.holds(held));
    if (lost.length === 0) return;
    for (const held of lost) this.#forget(held);
    this.#context.sink.lost(lost.map(({ delivery }) => delivery));
  }
}

function claimsOf(helds: readonly Held[]): ReadonlySet<Claim> {
  return new Set(helds.map(({ claim }) => claim));
}
