/** Hands records on: no more than the window at once, of all partitions in turn, and only after what must be committed first. */
import type { Cancel, DeliverySink, RawDelivery, Runtime, SubscribeSpec } from "../../src/spi.ts";
import { fromRecord } from "./mapping.ts";
import type { Partition, ReadRecord } from "./partition.ts";

export interface HandOverContext {
  readonly runtime: Runtime;
  readonly spec: SubscribeSpec;
  readonly sink: DeliverySink;
  partitions(): Iterable<Partition>;
  /** Commits what is under way; resolves with whether the broker has it. */
  note(): Promise<boolean>;
  /** Records were taken. */
  onTaken(): void;
}

/** How long to wait when it cannot be noted what is under way. */
const noteAgainMs = 100;

export class HandOver {
  readonly #context: HandOverContext;
  #unsettled = 0;
  #state: "running" | "paused" | "stopped" = "running";
  /** The group is changing hands. */
  #changing = false;
  #scheduled = false;
  /** Where the round begins: else the first partitions would always come first. */
  #turn = 0;
  readonly #noting = new Set<Partition>();
  #inNote = false;
  #idlers: (() => void)[] = [];
  #cancelNote: Cancel = () => undefined;

  constructor(context: HandOverContext) {
    this.#context = context;
  }

  get stopped(): boolean {
    return this.#state === "stopped";
  }

  /** Several reasons in one turn are one look. */
  readonly schedule = (): void => {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#context.runtime.defer(() => {
      this.#scheduled = false;
      this.#run();
    });
  };

  pause(): void {
    if (this.#state === "running") this.#state = "paused";
  }

  resume(): void {
    if (this.#state === "paused") this.#state = "running";
    this.schedule();
  }

  stop(): void {
    this.#state = "stopped";
    this.#cancelNote();
  }

  /** Nothing is handed over while the group changes hands. */
  changing(is: boolean): void {
    this.#changing = is;
    if (!is) this.schedule();
  }

  /** These are not out any more. */
  ended(count: number): void {
    this.#unsettled -= count;
    if (this.#unsettled === 0) {
      for (const wake of this.#idlers) wake();
      this.#idlers = [];
    }
    this.schedule();
  }

  /** Resolves when nothing is out. */
  idle(): Promise<void> {
    return this.#unsettled === 0 ? Promise.resolve() : new Promise((resolve) => this.#idlers.push(resolve));
  }

  #run(): void {
    if (this.#state !== "running" || this.#changing) return;
    const taken = this.#take([...this.#context.partitions()]);
    if (taken.length > 0) {
      this.#unsettled += taken.length;
      this.#context.sink.deliver(taken.map((record) => this.#handOut(record)));
      this.#context.onTaken();
    }
    this.#noteAll();
  }

  #take(partitions: readonly Partition[]): ReadRecord[] {
    const taken: ReadRecord[] = [];
    let free = this.#context.spec.prefetch - this.#unsettled;
    this.#turn += 1;
    for (let found = true; found && free > 0;) {
      found = false;
      for (let i = 0; i < partitions.length && free > 0; i += 1) {
        const partition = partitions[(i + this.#turn) % partitions.length] as Partition;
        const gate = partition.gate();
        if (gate === "note") this.#noting.add(partition);
        if (gate !== "open") continue;
        const record = partition.ready.shift() as ReadRecord;
        partition.out.add(record);
        taken.push(record);
        free -= 1;
        found = true;
      }
    }
    return taken;
  }

  #handOut(record: ReadRecord): RawDelivery {
    const { topic, group } = this.#context.spec;
    const { partition, offset } = record;
    const place = `${partition.number}@${offset}`;
    const delivery: RawDelivery = {
      topic: topic.name,
      group,
      message: fromRecord(record.message as NonNullable<ReadRecord["message"]>),
      position: partition.boundMs === undefined ? place : `${partition.topic}/${place}`,
      redeliveries: partition.redeliveriesOf(record),
      token: record,
    };
    record.delivery = delivery;
    return delivery;
  }

  /** One commit for all partitions whose first record of this session is to be handed over. */
  #noteAll(): void {
    const partitions = [...this.#noting];
    this.#noting.clear();
    if (partitions.length === 0 || this.#inNote) return;
    for (const partition of partitions) partition.suspectFirst();
    this.#inNote = true;
    void this.#context.note().then((noted) => {
      this.#inNote = false;
      if (noted) {
        for (const partition of partitions) partition.noted();
        this.schedule();
      } else if (!this.stopped) {
        this.#cancelNote = this.#context.runtime.setTimer(noteAgainMs, this.schedule, { unref: true });
      }
    });
  }
}
