/** What a subscription holds: deliveries handed over and not settled, and whether more may be. */
import type { RawDelivery } from "../../src/spi.ts";
import { type Claim, type Held, type ReadEntry, keyOf } from "./entry.ts";

/**
 * After so many hand-overs without an end, a message may be what ends its processes. It is handed over alone, so that the
 * others in the window are not counted, and in the end dead-lettered, along with it.
 */
const suspectAfter = 3;
/** Entries in one read: the next one is under way while these are handled. */
const maxRead = 256;

export class Window {
  readonly #prefetch: number;
  readonly #held = new Map<string, Held>();
  readonly #counts = new Map<Claim, number>();
  /** A suspect waits until nothing else is held. */
  #suspectWaits = false;

  constructor(prefetch: number) {
    this.#prefetch = prefetch;
  }

  /** How many of a claim are held. */
  heldBy(claim: Claim): number {
    return this.#counts.get(claim) ?? 0;
  }

  /** How many entries may be read now. */
  get credit(): number {
    return Math.min(this.#free, maxRead);
  }

  has(entry: Pick<ReadEntry, "source" | "id">): boolean {
    return this.#held.has(keyOf(entry));
  }

  values(): Held[] {
    return [...this.#held.values()];
  }

  /** What is held for this delivery; `undefined` when it was settled, lost, or handed over anew since. */
  of(delivery: RawDelivery): Held | undefined {
    const held = this.#held.get(keyOf(delivery.token as ReadEntry));
    return held?.delivery.token === delivery.token ? held : undefined;
  }

  holds(held: Held): boolean {
    return this.#held.get(keyOf(held)) === held;
  }

  /** Takes as many as may be handed over now; the first that may not, and all after it, are left over, so that none passes another. */
  take(entries: readonly Held[]): { readonly taken: readonly Held[]; readonly left: readonly Held[] } {
    this.#suspectWaits = false;
    const end = entries.findIndex((held) => !this.#takes(held));
    return end === -1
      ? { taken: entries, left: [] }
      : { taken: entries.slice(0, end), left: entries.slice(end) };
  }

  forget(held: Held): void {
    if (!this.holds(held)) return;
    this.#held.delete(keyOf(held));
    const left = this.heldBy(held.claim) - 1;
    if (left === 0) this.#counts.delete(held.claim);
    else this.#counts.set(held.claim, left);
  }

  clear(): void {
    this.#held.clear();
    this.#counts.clear();
  }

  get #free(): number {
    const [first] = this.#held.values();
    if (first === undefined) return this.#suspectWaits ? 1 : this.#prefetch;
    return this.#suspectWaits || isSuspect(first) ? 0 : this.#prefetch - this.#held.size;
  }

  #takes(held: Held): boolean {
    if (this.#free <= 0) return false;
    if (isSuspect(held) && this.#held.size > 0) {
      this.#suspectWaits = true;
      return false;
    }
    this.#held.set(keyOf(held), held);
    this.#counts.set(held.claim, this.heldBy(held.claim) + 1);
    return true;
  }
}

function isSuspect({ redeliveries }: ReadEntry): boolean {
  return redeliveries >= suspectAfter;
}
