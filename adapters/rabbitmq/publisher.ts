/** Publishing: where a message goes, how safe it is to be, and what the server's answer means. */
import {
  type GroupSpec,
  type MessagingError,
  type OutgoingMessage,
  type PublishResult,
  type WireMessage,
  createSpreader,
  partitionOfKey,
} from "../../src/spi.ts";
import type { Link } from "./connection.ts";
import type { DelayLadder } from "./delay.ts";
import { connectionLost, noRoute, queueGone, unwritable } from "./errors.ts";
import { FireAndForget } from "./fire-and-forget.ts";
import { headerLimits, toBuffer, toProperties } from "./mapping.ts";
import { type Outcome, Outlet, type OutletContext, type Parcel } from "./outlet.ts";
import { type Declarations, routingKey } from "./topology.ts";

export interface PublisherContext extends Omit<OutletContext, "name" | "mend"> {
  readonly declarations: Declarations;
  readonly ladder: DelayLadder;
  /** The connection that declares. */
  readonly consumeLink: Link;
}

export class Publisher {
  readonly #context: PublisherContext;
  /** For users' messages, and apart from them for copies made while settling: an error of one leaves the other alone. */
  readonly #messages: Outlet;
  readonly #copies: Outlet;
  readonly #unconfirmed: FireAndForget;
  readonly #spread: (topic: string, partitions: number) => number;

  constructor(context: PublisherContext) {
    this.#context = context;
    const outlet = (name: string): Outlet =>
      new Outlet({ ...context, name, mend: (error) => this.#mend(error) });
    this.#messages = outlet("publishing");
    this.#copies = outlet("settling");
    this.#spread = createSpreader(() => context.runtime.random("partition"));
    this.#unconfirmed = new FireAndForget(context.link, (error) => this.#mend(error));
  }

  /** One result per message, in order. Never rejects. */
  publish(batch: readonly OutgoingMessage[]): Promise<readonly PublishResult[]> {
    return new Promise((resolve) => {
      const results: PublishResult[] = Array.from({ length: batch.length });
      const now = this.#context.runtime.monotonic();
      let missing = batch.length;
      const set = (i: number, result: PublishResult): void => {
        results[i] = result;
        missing -= 1;
        if (missing === 0) resolve(results);
      };
      if (missing === 0) resolve(results);
      batch.forEach((outgoing, i) => this.#publishOne(outgoing, now, (result) => set(i, result)));
      this.#messages.pump();
    });
  }

  /** A copy straight to a queue of a group, its dead letters, or through the delays back to it. Resolves when that is decided. */
  async copy(
    spec: GroupSpec,
    to: "dead" | { readonly queue: string; readonly delayMs: number },
    message: WireMessage,
  ): Promise<Exclude<Outcome, { status: "returned" }>> {
    const properties = toProperties(message, headerLimits.copy);
    if ("unwritable" in properties)
      return { status: "rejected", error: unwritable(idOf(message), properties.unwritable) };
    const { dead } = this.#context.declarations.names(spec);
    const direct = { exchange: "", routingKey: to === "dead" ? dead : to.queue };
    const route =
      to === "dead" || to.delayMs <= 0 ? direct : await this.#throughLadder(to.queue, to.delayMs, properties);
    if ("status" in route) return route;
    const outcome = await this.#send({
      ...route,
      body: toBuffer(message.body),
      properties: { ...properties, deliveryMode: 2, mandatory: true },
    });
    if (outcome.status !== "returned") return outcome;
    await this.#remake(spec);
    return { status: "rejected", error: queueGone(direct.routingKey) };
  }

  /** Writes what waited for the end of an alarm. */
  resume(): void {
    this.#messages.pump();
    this.#copies.pump();
  }

  close(error: MessagingError): void {
    this.#messages.close(error);
    this.#copies.close(error);
  }

  #send(parcel: Parcel): Promise<Outcome> {
    return new Promise((resolve) => {
      this.#copies.push(parcel, this.#context.runtime.monotonic(), resolve);
      this.#copies.pump();
    });
  }

  async #throughLadder(
    queue: string,
    delayMs: number,
    properties: { headers?: unknown },
  ): Promise<Pick<Parcel, "exchange" | "routingKey"> | (Outcome & { status: "rejected" })> {
    const { ladder, consumeLink } = this.#context;
    try {
      const { exchange, headers } = await ladder.route(await consumeLink.ready(), delayMs);
      Object.assign(properties.headers as object, headers);
      return { exchange, routingKey: queue };
    } catch (error) {
      return { status: "rejected", error: connectionLost(error, "the connection that declares delays") };
    }
  }

  #publishOne(outgoing: OutgoingMessage, now: number, report: (result: PublishResult) => void): void {
    const { destination, message, durability } = outgoing;
    const toGroup = destination.group !== undefined;
    const properties = toProperties(message, toGroup ? headerLimits.copy : headerLimits.publish);
    if ("unwritable" in properties)
      return report({ status: "rejected", error: unwritable(idOf(message), properties.unwritable) });
    if (durability === "none") {
      const parcel = this.#parcel(outgoing, { ...properties, deliveryMode: 1 });
      return void this.#unconfirmed.publish(parcel).then(report);
    }
    properties.deliveryMode = 2;
    properties.mandatory = outgoing.requireRoute || toGroup;
    const parcel = this.#parcel(outgoing, properties);
    const push = (): void =>
      this.#messages.push(parcel, now, (outcome) => this.#conclude(outgoing, outcome, report));
    const spec = groupOf(outgoing);
    if (spec === undefined || this.#context.declarations.hasGroup(spec)) return push();
    // A relay publishes to groups that nobody in its process has declared.
    this.#ensure(spec).then(
      () => {
        push();
        this.#messages.pump();
      },
      (error: unknown) => report({ status: "rejected", error: connectionLost(error, "the connection") }),
    );
  }

  #parcel({ destination, message }: OutgoingMessage, properties: Parcel["properties"]): Parcel {
    const { declarations } = this.#context;
    const { topic, group, dead } = destination;
    const body = toBuffer(message.body);
    const names = group === undefined ? undefined : declarations.names({ topic, group });
    if (dead === true && names !== undefined)
      return { exchange: "", routingKey: names.dead, body, properties };
    const { key } = message;
    const partition =
      key === undefined ? this.#spread(topic.name, topic.partitions) : partitionOfKey(key, topic.partitions);
    const exchange = names?.exchange ?? declarations.exchange(topic);
    return { exchange, routingKey: routingKey(topic, partition), body, properties };
  }

  #conclude(outgoing: OutgoingMessage, outcome: Outcome, report: (result: PublishResult) => void): void {
    if (outcome.status === "accepted") return report({ status: "accepted", durability: outgoing.durability });
    if (outcome.status !== "returned") return report(outcome);
    const spec = groupOf(outgoing);
    if (spec === undefined) {
      const error = noRoute(idOf(outgoing.message), outgoing.destination.topic.name);
      return report({ status: "rejected", error });
    }
    const error = queueGone(this.#context.declarations.names(spec).queue);
    void this.#remake(spec).then(() => report({ status: "rejected", error }));
  }

  /** Declares again what a message did not find. Its sender tries again; a failure shows itself then. */
  async #remake(spec: GroupSpec): Promise<void> {
    const { declarations, consumeLink } = this.#context;
    declarations.forgetGroup(spec);
    const { session } = consumeLink;
    // Should it fail, the caller's next try comes back here.
    if (session !== undefined) await declarations.redeclare(session).catch(() => undefined);
  }

  async #ensure(spec: GroupSpec): Promise<void> {
    const { declarations, consumeLink } = this.#context;
    await declarations.ensureGroup(await consumeLink.ready(), spec);
  }

  /** After the server closed a channel because an exchange is gone, everything is declared again. */
  async #mend({ code }: MessagingError): Promise<void> {
    const { session } = this.#context.consumeLink;
    if (code === "ERR_DESTINATION" && session !== undefined)
      await this.#context.declarations.redeclare(session);
  }
}

function groupOf({ destination: { topic, group } }: OutgoingMessage): GroupSpec | undefined {
  return group === undefined ? undefined : { topic, group };
}

function idOf({ attributes }: WireMessage): string {
  return attributes["id"] ?? "";
}
